package route

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Validity is how long routes lead on after a Beat.
const Validity = time.Second

// ErrUnsupported says that this kernel, or what this process may do, does not allow routing. The way out is in the text.
var ErrUnsupported = errors.New("connect() cannot be routed here")

// Config says for which service Open makes a Router.
type Config struct {
	// ID is the service's, unique on the host.
	ID string
	// Public are the names that apps connect to, as they spell them: paths, or with "@" in front abstract names. At most
	// MaxPublic.
	Public []string
	// Cgroup is the directory of the cgroup, of version 2, in whose processes connect() is led. "": the root, which
	// means every process that can be seen from here.
	Cgroup string
	// Pins is an existing directory in a bpffs. "": one in the host's, which is mounted if it is not.
	Pins string
}

// Router leads the apps of one service. Its methods may be called from any goroutine.
type Router struct {
	public   int // names
	dir      string
	objects  *programObjects
	link     link.Link
	settings *programSettings
	spares   *[MaxSpares]programSpare
	maps     [][]byte // what settings and spares lie in

	reader *ringbuf.Reader
	done   chan struct{}
	claims chan Claim

	mu       sync.Mutex
	reported [MaxSpares]bool
	closed   bool
}

// Elements of an array in the kernel begin at multiples of 8 bytes.
const _ = -(unsafe.Sizeof(programSpare{}) % 8)

// Open makes the router of service cfg.ID, or adopts what a dead monitor has left of it, with routes and spares. Nothing is led
// before the first Beat. Only one process may have a service's router open. ErrUnsupported: it is not possible
// here; after any error a router that was there before is there no more.
func Open(cfg Config) (_ *Router, err error) {
	if _, err := parseNames(cfg.Public); err != nil {
		return nil, err
	}
	if cfg.ID == "" || len(cfg.Public) == 0 {
		return nil, errors.New("a router needs the id of a service and its public names")
	}
	service, err := serviceDir(cfg.Pins, cfg.ID, true)
	if err != nil {
		return nil, err
	}
	r := &Router{public: len(cfg.Public), dir: filepath.Join(service, version()), done: make(chan struct{}), claims: make(chan Claim, MaxSpares)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("router of %q: %w", cfg.ID, err), r.release(), Remove(cfg.ID, cfg.Pins))
		}
	}()
	if adopted, err := r.adopt(cfg.Public); err != nil {
		return nil, err
	} else if !adopted {
		if err := clearPins(service); err != nil {
			return nil, err
		}
		if err := r.make(cfg); err != nil {
			return nil, err
		}
	}
	if err := r.share(); err != nil {
		return nil, err
	}
	if err := r.calibrate(); err != nil {
		return nil, err
	}
	if r.reader, err = ringbuf.NewReader(r.objects.Claimed); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	r.scan()
	go r.listen()
	return r, nil
}

// adopt opens what is pinned, if it is complete, of this version and for the same names.
func (r *Router) adopt(public []string) (bool, error) {
	l, err := link.LoadPinnedLink(r.dir+"/link", nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt: %w", err)
	}
	r.link = l
	if r.objects, err = adoptObjects(r.dir); err != nil {
		return false, fmt.Errorf("adopt: %w", err)
	}
	same, err := r.serves(public)
	if err != nil || same {
		return same, err
	}
	err = r.release()
	r.objects = nil
	return false, err
}

// serves tells whether the program knows just these names.
func (r *Router) serves(public []string) (bool, error) {
	var name programName
	var index uint32
	found := 0
	for all := r.objects.Publics.Iterate(); all.Next(&name, &index); {
		switch {
		case index == calibrate: // its monitor died in the middle
			if err := r.objects.Publics.Delete(&name); err != nil {
				return false, err
			}
		case index >= uint32(len(public)) || name.String() != public[index]:
			return false, nil
		default:
			found++
		}
	}
	return found == len(public), nil
}

// make loads the program, attaches it and pins everything. The link comes last: without it nothing is adopted.
func (r *Router) make(cfg Config) (err error) {
	cgroup := cfg.Cgroup
	if cgroup == "" {
		if cgroup = cgroupRoot(); cgroup == "" {
			return fmt.Errorf("%w: no cgroup2 file system is mounted; way out: mount one", ErrUnsupported)
		}
	}
	if r.objects, err = load(); err != nil {
		return unsupported("load the program", err)
	}
	for i, s := range cfg.Public {
		name, err := parseName(s)
		if err == nil {
			err = r.objects.Publics.Put(&name, uint32(i))
		}
		if err != nil {
			return err
		}
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	for name, m := range r.objects.pinned() {
		if err := (*m).Pin(r.dir + "/" + name); err != nil {
			return err
		}
	}
	r.link, err = link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCgroupUnixConnect, Program: r.objects.Route})
	if err != nil {
		return unsupported("attach the program to "+cgroup, err)
	}
	return r.link.Pin(r.dir + "/link")
}

// unsupported sorts out what is the host's fault.
func unsupported(what string, err error) error {
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%w: %s: there are 64 such programs already; way out: delete a service that is routed: %w", ErrUnsupported, what, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s: %w; way out: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or CAP_SYS_ADMIN", ErrUnsupported, what, err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s: %w; way out: Linux 6.7 or later with BTF and CONFIG_CGROUP_BPF", ErrUnsupported, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// share maps settings and spares into this process.
func (r *Router) share() error {
	mapped := func(m *ebpf.Map, size uintptr) (unsafe.Pointer, error) {
		b, err := unix.Mmap(m.FD(), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", m, err)
		}
		r.maps = append(r.maps, b)
		return unsafe.Pointer(unsafe.SliceData(b)), nil
	}
	p, err := mapped(r.objects.Settings, unsafe.Sizeof(*r.settings))
	if err != nil {
		return err
	}
	r.settings = (*programSettings)(p)
	if p, err = mapped(r.objects.Spares, unsafe.Sizeof(*r.spares)); err != nil {
		return err
	}
	r.spares = (*[MaxSpares]programSpare)(p)
	return nil
}

// calibrate shows the program which files and which network this process sees, by a connect() to a name that nobody else
// knows. It also proves that the program is in the way of such calls.
func (r *Router) calibrate() error {
	name, err := parseName("@corsa-" + rand.Text())
	if err != nil {
		return err
	}
	if err := r.objects.Publics.Put(&name, uint32(calibrate)); err != nil {
		return fmt.Errorf("calibrate: %w", err)
	}
	before := atomic.LoadUint32(&r.settings.Calibrated)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("calibrate: %w", err)
	}
	defer unix.Close(fd)
	_ = unix.Connect(fd, &unix.SockaddrUnix{Name: name.String()}) // nobody listens there
	if err := r.objects.Publics.Delete(&name); err != nil {
		return fmt.Errorf("calibrate: %w", err)
	}
	if atomic.LoadUint32(&r.settings.Calibrated) == before {
		return fmt.Errorf("%w: the program does not see this process's own calls; way out: run corsa in a cgroup below the mounted hierarchy", ErrUnsupported)
	}
	return nil
}

// Beat lets routes lead on for Validity from now. It makes no system call and does not allocate.
func (r *Router) Beat() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		r.validUntil(uint64(now.Nano() + int64(Validity)))
	}
}

// Pause has all apps arrive at the public sockets until the next Beat.
func (r *Router) Pause() { r.validUntil(0) }

func (r *Router) validUntil(ns uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		atomic.StoreUint64(&r.settings.ValidUntil, ns)
	}
}

// Counts are calls of connect() on public names since the program was attached.
type Counts struct {
	Routed    uint64 `json:"routed"`    // arrived at an instance
	Claimed   uint64 `json:"claimed"`   // spares
	Stale     uint64 `json:"stale"`     // not led, for want of a heartbeat
	Elsewhere uint64 `json:"elsewhere"` // not led: from another mount or network namespace
	Without   uint64 `json:"without"`   // not led: no route and no spare
}

// Counts reads the counters.
func (r *Router) Counts() (Counts, error) {
	var sums [5]uint64
	for i := range sums {
		var each []uint64
		if err := r.objects.Counts.Lookup(uint32(i), &each); err != nil {
			return Counts{}, fmt.Errorf("counts: %w", err)
		}
		for _, n := range each {
			sums[i] += n
		}
	}
	return Counts{sums[0], sums[1], sums[2], sums[3], sums[4]}, nil
}

// Close gives the router up. The program goes on leading until the last heartbeat runs out.
func (r *Router) Close() error {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if closed {
		return nil
	}
	err := r.reader.Close()
	<-r.done
	return errors.Join(err, r.release())
}

func (r *Router) release() error {
	var errs []error
	for _, b := range r.maps {
		errs = append(errs, unix.Munmap(b))
	}
	r.maps = nil
	if r.objects != nil {
		errs = append(errs, r.objects.Close())
	}
	if r.link != nil {
		errs = append(errs, r.link.Close())
		r.link = nil
	}
	return errors.Join(errs...)
}
