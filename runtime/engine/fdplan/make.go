package fdplan

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/sockpath"
)

// Listener is an instance's own listening socket.
type Listener struct {
	Network string `json:"network"`
	Address string `json:"address"` // a path, or a port in the engine's network namespace
	Inode   uint64 `json:"inode"`
	// Bound is the name that the socket has for both ends, where it is not Address.
	Bound string `json:"bound,omitempty"`
}

// BoundTo is the name that the socket has for both ends.
func (l *Listener) BoundTo() string { return cmp.Or(l.Bound, l.Address) }

// Maker makes the objects of a plan anew, all in the caller's own descriptor table: what the credentials and the file
// system of the service allow does not matter.
type Maker struct {
	Plan   *Plan
	Source int      // the process from which read-only files are reopened
	Dir    string   // for listening sockets
	Dirs   []string // the same for some of them, see engine.Target
	Name   string   // of the instance, unique in Dir
	Net    *Netns
	Roots  []int                  // the instance's private directories, open, in the order of Target.Private
	Saved  string                 // directory to which Plan.Save has copied files without a name
	Binder string                 // path, here, of the Binder device of the plan
	Keep   map[engine.ConnID]bool // connections to plumb again

	// Made maps a descriptor of the plan to the new one here, which Close closes. Duplicates and epoll sets are not in it.
	Made map[int]int
	// Plumbed are the gate's ends of the connections in Keep. They are the caller's once Run has succeeded.
	Plumbed   []engine.Plumbed
	Listeners map[int]Listener // by index into Target.Listeners
	revived   map[string]int   // files without a name, by FD.Saved
	ours      []int
}

// Run makes everything. After an error the caller still has to Close.
func (m *Maker) Run() error {
	m.Made, m.Listeners = map[int]int{}, map[int]Listener{}
	for i := range m.Plan.FDs {
		p := &m.Plan.FDs[i]
		if p.DupOf != 0 || p.Kind == Epoll || m.Made[p.FD] != 0 {
			continue
		}
		if err := m.make(p); err != nil {
			return fmt.Errorf("fd %d (%s): make anew: %w", p.FD, p.Kind, err)
		}
	}
	return nil
}

// Close closes what is here. What has been handed over lives on there.
func (m *Maker) Close() {
	for _, fd := range m.ours {
		unix.Close(fd)
	}
	m.ours = nil
}

// Unplumb closes the gate's ends, after a failure.
func (m *Maker) Unplumb() {
	for _, p := range m.Plumbed {
		unix.Close(p.FD)
	}
	m.Plumbed = nil
}

// ListenerList lists the listeners in the order of Target.Listeners, which has n entries. Missing ones are zero.
func (m *Maker) ListenerList(n int) []Listener {
	out := make([]Listener, n)
	for i, l := range m.Listeners {
		out[i] = l
	}
	return out
}

// add takes note of the new descriptor for p.
func (m *Maker) add(p *FD, fd int, err error) error {
	if err != nil {
		return err
	}
	m.ours = append(m.ours, fd)
	m.Made[p.FD] = fd
	return nil
}

func (m *Maker) make(p *FD) error {
	switch p.Kind {
	case Listen:
		return m.listen(p)
	case Conn:
		return m.connection(p)
	case Closed:
		return m.closed(p)
	case Pair:
		return m.pair(p)
	case Pipe:
		return m.pipe(p)
	case File:
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%d", m.Source, p.FD), p.Flags&^unix.O_CREAT|unix.O_CLOEXEC, 0)
		if err := m.add(p, fd, err); err != nil {
			return err
		}
		_, err = unix.Seek(fd, p.Pos, unix.SEEK_SET)
		return err
	case OwnFile:
		return m.private(p)
	case Binder:
		// Only by name: what the driver keeps for an open device belongs to the process that has opened it.
		fd, err := unix.Open(m.Binder, unix.O_PATH|unix.O_CLOEXEC, 0)
		return m.add(p, fd, err)
	case Event:
		fd, err := unix.Eventfd(0, p.Type|unix.EFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
		if err := m.add(p, fd, err); err != nil || p.Count == 0 {
			return err
		}
		_, err = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, p.Count))
		return err
	case Signal:
		set := unix.Sigset_t{Val: [16]uint64{p.Sigmask}}
		fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
		return m.add(p, fd, err)
	case Timer:
		return m.timer(p)
	case Notify:
		return m.inotify(p)
	}
	return fmt.Errorf("unknown kind %q", p.Kind)
}

// finish gives a new socket the flags and options of the old one.
func (m *Maker) finish(p *FD) error {
	fd, ok := m.Made[p.FD]
	if !ok {
		return nil
	}
	if err := SetOptions(fd, p.Options); err != nil {
		return err
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, p.Flags&(unix.O_NONBLOCK|unix.O_ASYNC|unix.O_APPEND))
	return err
}

func (m *Maker) listen(p *FD) error {
	if l, ok := m.Listeners[p.Listener]; ok {
		return fmt.Errorf("a second socket listens on %s", l.Address)
	}
	var fd int
	var l Listener
	var err error
	if p.Family == unix.AF_UNIX {
		if fd, err = unix.Socket(unix.AF_UNIX, p.Type|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		l, err = m.bind(fd, p.Listener)
		err = errors.Join(m.add(p, fd, nil), err)
	} else {
		l.Network = "tcp"
		fd, l.Address, err = m.Net.Listen(p.Family)
		err = m.add(p, fd, err)
	}
	if err != nil {
		return err
	}
	if err := unix.Listen(fd, max(p.Backlog, 4096)); err != nil {
		return err
	}
	if l.Inode, err = InodeOf(fd); err != nil {
		return err
	}
	m.Listeners[p.Listener] = l
	return m.finish(p)
}

// hiddenName is how long the name of a listener is that apps may reach.
const hiddenName = 24

// bind gives the socket for listener i its name.
func (m *Maker) bind(fd, i int) (Listener, error) {
	l := Listener{Network: "unix"}
	name := fmt.Sprintf("%s.%d.sock", m.Name, i)
	if i >= len(m.Dirs) || m.Dirs[i] == "" {
		l.Address = filepath.Join(m.Dir, name)
		return l, sockpath.With(l.Address, func(name string) error {
			if name != l.Address {
				l.Bound = name
			}
			return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		})
	}
	l.Bound, l.Address = filepath.Join(m.Dirs[i], name), filepath.Join(m.Dirs[i], rand.Text()[:hiddenName])
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.Bound}); err != nil {
		return l, err
	}
	// It does not listen yet, so nobody can connect to it meanwhile.
	err := unix.Chmod(l.Bound, 0o600)
	if err == nil {
		err = unix.Rename(l.Bound, l.Address)
	}
	if err != nil {
		err = errors.Join(err, unix.Unlink(l.Bound))
	}
	return l, err
}

// connection re-plumbs a connection that the app still has, or lets the service find an end of file.
func (m *Maker) connection(p *FD) error {
	var theirs, ours int
	var err error
	if p.Family == unix.AF_UNIX {
		theirs, ours, err = socketPair(p.Type)
	} else {
		theirs, ours, err = m.Net.Pair(p.Family)
	}
	if err := m.add(p, theirs, err); err != nil {
		return err
	}
	if !m.Keep[p.Conn] {
		unix.Close(ours)
		return m.finish(p)
	}
	ino, err := InodeOf(theirs)
	if err == nil {
		err = unix.SetNonblock(ours, true)
	}
	if err != nil {
		unix.Close(ours)
		return err
	}
	m.Plumbed = append(m.Plumbed, engine.Plumbed{ID: p.Conn, FD: ours, Inode: ino})
	return m.finish(p)
}

func (m *Maker) pipe(p *FD) error {
	q := m.Plan.ByFD(p.Peer)
	if q == nil || q.Kind != Pipe {
		return fmt.Errorf("fd %d, its other end, is not in the plan", p.Peer)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	rd, wr := p, q
	if p.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		rd, wr = q, p
	}
	_, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, max(len(rd.Data), defaultPipe))
	return errors.Join(err, m.add(rd, ends[0], nil), m.add(wr, ends[1], nil), fillPipe(ends[1], rd.Data), m.finish(rd), m.finish(wr))
}

func fillPipe(fd int, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	n, err := unix.Write(fd, data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%d of %d bytes fit", n, len(data))
	}
	return err
}
