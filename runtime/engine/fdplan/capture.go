package fdplan

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// Capturer reads the descriptor table of a process none of whose threads runs. It is used once.
type Capturer struct {
	PID, PIDFD int
	Listeners  map[uint64]int   // inode -> index, of an instance's own listening sockets
	Declared   []engine.Address // of the service's own, when it is adopted
	Conns      engine.Conns
	Shared     []string // paths declared shared
	Private    *Private // the private directories; nil: there are none
	Binder     string   // path, here, of the Binder device that may be open; "": none

	// Table and Info are /proc/PID/fd and fdinfo, open, which stay the caller's; 0: Run opens them.
	Table, Info int

	binder   unix.Stat_t
	dir      int // /proc/PID/fd
	infoDir  int // /proc/PID/fdinfo
	diag     int // of sock_diag; 0: not open yet
	buf      []byte
	plan     Plan
	links    map[int]string
	blockers []engine.Blocker
}

// Run makes the plan. Everything that could not be made anew is refused by name, in an *engine.Refusal; a process that
// has ended gives engine.ErrGone.
func (c *Capturer) Run() (*Plan, error) {
	var err error
	if c.dir = c.Table; c.dir == 0 {
		if c.dir, err = openDir(c.PID, "fd"); err != nil {
			return nil, err
		}
		defer unix.Close(c.dir)
	} else if _, err := unix.Seek(c.dir, 0, unix.SEEK_SET); err != nil {
		return nil, gone(c.PID, err)
	}
	if c.infoDir = c.Info; c.infoDir == 0 {
		if c.infoDir, err = openDir(c.PID, "fdinfo"); err != nil {
			return nil, err
		}
		defer unix.Close(c.infoDir)
	}
	if c.Binder != "" {
		if err := unix.Stat(c.Binder, &c.binder); err != nil {
			return nil, fmt.Errorf("binder device %s: %w", c.Binder, err)
		}
	}
	buf := bufPool.Get().(*[]byte)
	c.buf = *buf
	defer func() {
		*buf = c.buf
		bufPool.Put(buf)
	}()
	defer func() {
		if c.diag > 0 {
			unix.Close(c.diag)
		}
	}()
	if err := c.readLinks(); err != nil {
		return nil, err
	}
	c.plan.Open = len(c.links)
	for fd := range sortedKeys(c.links) {
		if err := c.one(fd, c.links[fd]); err != nil {
			return nil, fmt.Errorf("fd %d (%s) of process %d: %w", fd, c.links[fd], c.PID, err)
		}
	}
	if err := c.pairUp(); err != nil {
		return nil, err
	}
	if err := c.findDuplicates(); err != nil {
		return nil, err
	}
	if len(c.blockers) > 0 {
		return nil, &engine.Refusal{PID: c.PID, Blockers: c.blockers}
	}
	return &c.plan, nil
}

// bufPool has buffers for what is read of /proc. Tables are read while an instance stands still.
var bufPool = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

func openDir(pid int, name string) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, gone(pid, err)
}

func (c *Capturer) readLinks() error {
	var names []string
	for {
		n, err := unix.Getdents(c.dir, c.buf)
		if err != nil {
			return gone(c.PID, err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(c.buf[:n], -1, names)
	}
	c.links = make(map[int]string, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return fmt.Errorf("/proc/%d/fd: %w", c.PID, err)
		}
		n, err := unix.Readlinkat(c.dir, name, c.buf[:linkSize])
		if err != nil {
			return gone(c.PID, err)
		}
		if n == linkSize && c.Private != nil { // a name of which the end matters
			if n, err = unix.Readlinkat(c.dir, name, c.buf); err != nil {
				return gone(c.PID, err)
			}
		}
		c.links[fd] = string(c.buf[:n])
	}
	return nil
}

// Open reports whether the descriptor was in the table that Run read, in the plan or not.
func (c *Capturer) Open(fd int) bool {
	_, ok := c.links[fd]
	return ok
}

// linkSize is how much of a descriptor's path is looked at.
const linkSize = 256

// one plans one descriptor.
func (c *Capturer) one(fd int, link string) error {
	switch {
	case strings.HasPrefix(link, "socket:["):
		return c.socket(fd, link)
	case strings.HasPrefix(link, "pipe:["):
		return c.pipe(fd, link)
	case link == "anon_inode:[eventpoll]":
		return c.epoll(fd)
	case link == "anon_inode:[eventfd]", link == "anon_inode:[timerfd]", link == "anon_inode:[signalfd]":
		return c.counted(fd, Kind(strings.TrimSuffix(strings.TrimPrefix(link, "anon_inode:["), "]")))
	case link == "anon_inode:inotify":
		return c.inotify(fd)
	case strings.HasPrefix(link, "/"):
		return c.path(fd, link)
	}
	c.block(fd, link, "the engine cannot make an object of this kind anew",
		"close it before the service is virtualised, or do without virtualisation for this service")
	return nil
}

func (c *Capturer) block(fd int, what, reason, wayOut string) {
	c.blockers = append(c.blockers, engine.Blocker{
		Object: fmt.Sprintf("fd %d (%s)", fd, what), Reason: reason, WayOut: wayOut,
	})
}

// info reads fdinfo. What it returns is valid until the next call.
func (c *Capturer) info(fd int) ([]byte, error) {
	f, err := unix.Openat(c.infoDir, strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, gone(c.PID, err)
	}
	defer unix.Close(f)
	for got := 0; ; {
		n, err := unix.Read(f, c.buf[got:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, gone(c.PID, err)
		}
		if got += n; got < len(c.buf) { // the kernel makes the whole text at once: there is no more
			return c.buf[:got], nil
		}
		c.buf = append(c.buf, make([]byte, len(c.buf))...)
	}
}

// Field returns the value of a line "name:\tvalue" of fdinfo.
func Field(info []byte, name string) string {
	for line := range bytes.Lines(info) {
		if v, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

func openFlags(info []byte) (int, error) {
	n, err := strconv.ParseUint(Field(info, "flags"), 8, 32)
	return int(n), err
}

func (c *Capturer) path(fd int, link string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(c.dir, strconv.Itoa(fd), &st, 0); err != nil {
		return gone(c.PID, err)
	}
	kind := st.Mode & unix.S_IFMT
	if c.Binder != "" && st.Dev == c.binder.Dev && st.Ino == c.binder.Ino {
		return c.device(fd, st.Ino)
	}
	if place, ok := c.Private.place(link); ok {
		return c.private(fd, link, place, &st)
	}
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil // devices: inherited
	}
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	flags, err := openFlags(info)
	if err != nil {
		return err
	}
	if flags&unix.O_PATH != 0 || declaredShared(link, c.Shared) {
		return nil
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		c.block(fd, link, "it is open for writing and its contents are not rewound with the instance",
			"declare it with --shared "+link+", or a directory that it is in with --private")
		return nil
	}
	pos, err := strconv.ParseInt(Field(info, "pos"), 10, 64)
	if err != nil {
		return err
	}
	c.plan.FDs = append(c.plan.FDs, FD{FD: fd, Kind: File, Flags: flags, Pos: pos, Inode: st.Ino})
	return nil
}

// device plans the Binder device.
func (c *Capturer) device(fd int, inode uint64) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	flags, err := openFlags(info)
	if err != nil || flags&unix.O_PATH != 0 {
		return err
	}
	c.plan.FDs = append(c.plan.FDs, FD{FD: fd, Kind: Binder, Flags: flags, Inode: inode})
	return nil
}

// declaredShared reports whether the path is, or is below, one of the declared ones.
func declaredShared(path string, shared []string) bool {
	path = strings.TrimSuffix(path, " (deleted)")
	for _, s := range shared {
		if path == s || strings.HasPrefix(path, strings.TrimSuffix(s, "/")+"/") {
			return true
		}
	}
	return false
}

// LinkInode is N of "socket:[N]" or "pipe:[N]".
func LinkInode(link string) (uint64, bool) {
	_, v, ok := strings.Cut(link, ":[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(v, "]"), 10, 64)
	return n, err == nil
}

func (c *Capturer) counted(fd int, kind Kind) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	p := FD{FD: fd, Kind: kind}
	if p.Flags, err = openFlags(info); err != nil {
		return err
	}
	switch kind {
	case Event:
		if p.Count, err = strconv.ParseUint(Field(info, "eventfd-count"), 16, 64); err != nil {
			return err
		}
		semaphore := Field(info, "eventfd-semaphore") == "1"
		if !bytes.Contains(info, []byte("eventfd-semaphore:")) {
			if semaphore, err = c.isSemaphore(fd, p.Count); err != nil {
				return err
			}
		}
		if semaphore {
			p.Type = unix.EFD_SEMAPHORE
		}
	case Signal:
		if p.Sigmask, err = strconv.ParseUint(Field(info, "sigmask"), 16, 64); err != nil {
			return err
		}
	case Timer:
		return c.timer(p, info)
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

func (c *Capturer) pipe(fd int, link string) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	flags, err := openFlags(info)
	if err != nil {
		return err
	}
	ino, _ := LinkInode(link)
	c.plan.FDs = append(c.plan.FDs, FD{FD: fd, Kind: Pipe, Flags: flags, Inode: ino})
	return nil
}

// pairUp finds the other end of pipes and socket pairs. Those whose other end is outside are inherited.
func (c *Capturer) pairUp() error {
	keep := c.plan.FDs[:0]
	for i := range c.plan.FDs {
		p := c.plan.FDs[i]
		switch p.Kind {
		case Pipe:
			other := -1
			for _, q := range c.plan.FDs {
				if q.Kind == Pipe && q.Inode == p.Inode && q.Flags&unix.O_ACCMODE != p.Flags&unix.O_ACCMODE {
					other = q.FD
					break
				}
			}
			if other < 0 {
				continue
			}
			p.Peer = other
			if p.Flags&unix.O_ACCMODE == unix.O_RDONLY {
				data, err := c.pipeData(p.FD)
				if err != nil {
					return fmt.Errorf("fd %d (pipe) of process %d: %w", p.FD, c.PID, err)
				}
				p.Data = data
			}
		}
		keep = append(keep, p)
	}
	c.plan.FDs = keep
	return nil
}

// pipeData copies what is in the pipe without taking it out.
func (c *Capturer) pipeData(fd int) ([]byte, error) {
	r, err := unix.PidfdGetfd(c.PIDFD, fd, 0)
	if err != nil {
		return nil, gone(c.PID, err)
	}
	defer unix.Close(r)
	n, err := unix.IoctlGetInt(r, unix.TIOCINQ)
	if err != nil || n == 0 {
		return nil, err
	}
	var to [2]int
	if err := unix.Pipe2(to[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	defer unix.Close(to[0])
	defer unix.Close(to[1])
	if _, err := unix.FcntlInt(uintptr(to[1]), unix.F_SETPIPE_SZ, max(n, defaultPipe)); err != nil {
		return nil, fmt.Errorf("copy %d bytes: %w", n, err)
	}
	m, err := unix.Tee(r, to[1], n, unix.SPLICE_F_NONBLOCK)
	if err != nil {
		return nil, err
	}
	data := make([]byte, m)
	_, err = unix.Read(to[0], data)
	return data, err
}

// findDuplicates finds descriptors that share an open file description (dup, F_DUPFD): they have to share the new one.
func (c *Capturer) findDuplicates() error {
	for i := range c.plan.FDs {
		p := &c.plan.FDs[i]
		for j := range i {
			q := &c.plan.FDs[j]
			if q.DupOf != 0 || q.Kind != p.Kind || q.Inode != p.Inode {
				continue
			}
			same := p.Kind == Listen || p.Kind == Conn || p.Kind == Pair // a socket's inode is its own
			if !same {
				r, _, e := unix.RawSyscall6(unix.SYS_KCMP, uintptr(c.PID), uintptr(c.PID), 0, uintptr(p.FD), uintptr(q.FD), 0)
				if e != 0 {
					return fmt.Errorf("fd %d and %d of process %d: kcmp: %w", p.FD, q.FD, c.PID, e)
				}
				same = r == 0
			}
			if same {
				p.DupOf = q.FD + 1
				break
			}
		}
	}
	return nil
}

// gone turns the errors of a process that has ended into engine.ErrGone.
func gone(pid int, err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("process %d: %w", pid, engine.ErrGone)
	}
	return err
}
