package fork

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

var _ engine.SocketHolder = (*instance)(nil)

// table looks at an instance's descriptor table through its anchor, which shares it and outlives the instance's threads.
type table struct {
	pid, pidfd int
	dir, info  int // /proc/PID/fd and fdinfo
	buf        []byte
}

func (in *instance) table() (*table, error) {
	t := &table{pid: in.a.PID, pidfd: in.a.pidfd, dir: -1, info: -1, buf: make([]byte, 16<<10)}
	var err error
	if t.dir, err = t.open("fd"); err == nil {
		t.info, err = t.open("fdinfo")
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *table) open(name string) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", t.pid, name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, gone(t.pid, err)
}

func (t *table) close() {
	unix.Close(t.dir)
	unix.Close(t.info)
}

// each calls f with every descriptor, in ascending order, and with what its link says.
func (t *table) each(f func(fd int, link string) error) error {
	var names []string
	for {
		n, err := unix.Getdents(t.dir, t.buf)
		if err != nil {
			return gone(t.pid, err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(t.buf[:n], -1, names)
	}
	fds := make([]int, 0, len(names))
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil {
			fds = append(fds, fd)
		}
	}
	slices.Sort(fds)
	var link [64]byte
	for _, fd := range fds {
		n, err := unix.Readlinkat(t.dir, strconv.Itoa(fd), link[:])
		if errors.Is(err, unix.ENOENT) {
			continue // closed meanwhile
		}
		if err != nil {
			return gone(t.pid, err)
		}
		if err := f(fd, string(link[:n])); err != nil {
			return err
		}
	}
	return nil
}

// fdinfo reads /proc/PID/fdinfo/FD. What it returns is valid until the next call.
func (t *table) fdinfo(fd int) ([]byte, error) {
	f, err := unix.Openat(t.info, strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, gone(t.pid, err)
	}
	defer unix.Close(f)
	for got := 0; ; {
		n, err := unix.Read(f, t.buf[got:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, gone(t.pid, err)
		}
		if got += n; n == 0 || got < len(t.buf) { // the kernel makes the whole text at once
			return t.buf[:got], nil
		}
		t.buf = append(t.buf, make([]byte, len(t.buf))...)
	}
}

// socketLink is what the link of a socket's descriptor says.
func socketLink(inode uint64) string { return "socket:[" + strconv.FormatUint(inode, 10) + "]" }

// HoldsSocket implements engine.SocketHolder.
func (in *instance) HoldsSocket(s engine.Socket) bool {
	var b [64]byte
	n, err := unix.Readlink(fmt.Sprintf("/proc/%d/fd/%d", in.a.PID, s.FD), b[:])
	return err == nil && string(b[:n]) == socketLink(s.Inode)
}

// DuplicateSocket implements engine.SocketHolder.
func (in *instance) DuplicateSocket(s engine.Socket) (int, error) {
	fd, err := in.getSocket(s.FD, s.Inode)
	if !errors.Is(err, engine.ErrNoSocket) {
		return fd, err
	}
	// The service may have another descriptor of it.
	t, err := in.table()
	if err != nil {
		return -1, err
	}
	defer t.close()
	at, want := -1, socketLink(s.Inode)
	if err := t.each(func(fd int, link string) error {
		if at < 0 && link == want {
			at = fd
		}
		return nil
	}); err != nil {
		return -1, err
	}
	return in.getSocket(at, s.Inode)
}

// getSocket duplicates descriptor n if it is the socket with that inode.
func (in *instance) getSocket(n int, inode uint64) (int, error) {
	fd, err := unix.PidfdGetfd(in.a.pidfd, n, 0)
	if err == nil {
		if ino, e := fdplan.InodeOf(fd); e == nil && ino == inode {
			return fd, nil
		}
		unix.Close(fd)
		err = unix.EBADF
	}
	if errors.Is(err, unix.EBADF) {
		return -1, fmt.Errorf("socket %d of instance %d: %w", inode, in.PID(), engine.ErrNoSocket)
	}
	return -1, gone(in.a.PID, err)
}

// AcceptedSockets implements engine.SocketHolder.
func (in *instance) AcceptedSockets() ([]engine.Socket, error) {
	var out []engine.Socket
	err := in.sockets(func(s engine.Socket, fd int) {
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || listens != 0 || s.Local == "" {
			return
		}
		if _, err := unix.Getpeername(fd); err != nil {
			return
		}
		s.Listener = slices.IndexFunc(in.listeners, func(l listener) bool { return l.Network == "unix" && l.BoundTo() == s.Local })
		out = append(out, s)
	})
	return out, err
}

// ListenerSockets implements engine.SocketHolder.
func (in *instance) ListenerSockets() ([]engine.Socket, error) {
	var out []engine.Socket
	err := in.sockets(func(s engine.Socket, _ int) {
		s.Listener = slices.IndexFunc(in.listeners, func(l listener) bool { return l.Network == "unix" && l.Inode == s.Inode })
		if s.Listener >= 0 {
			out = append(out, s)
		}
	})
	slices.SortFunc(out, func(a, b engine.Socket) int { return a.Listener - b.Listener })
	return out, err
}

// sockets calls f with every unix stream socket, once, and with a descriptor of it that is only valid in f.
func (in *instance) sockets(f func(s engine.Socket, fd int)) error {
	t, err := in.table()
	if err != nil {
		return err
	}
	defer t.close()
	seen := map[uint64]bool{}
	return t.each(func(n int, link string) error {
		inode, ok := linkInode(link)
		if !ok || link != socketLink(inode) || seen[inode] {
			return nil
		}
		seen[inode] = true
		fd, err := in.getSocket(n, inode)
		if errors.Is(err, engine.ErrNoSocket) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if !isUnixStream(fd) {
			return nil
		}
		s := engine.Socket{Inode: inode, FD: n, Listener: -1}
		if sa, err := unix.Getsockname(fd); err == nil {
			if u, ok := sa.(*unix.SockaddrUnix); ok && u.Name != "@" { // which is how x/sys writes no name at all
				s.Local = u.Name
			}
		}
		f(s, fd)
		return nil
	})
}

func isUnixStream(fd int) bool {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || family != unix.AF_UNIX {
		return false
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && typ == unix.SOCK_STREAM
}

// Unsettled implements engine.SocketHolder.
func (in *instance) Unsettled() bool {
	for i := range in.tracee.threads {
		if th := &in.tracee.threads[i]; th.unsettled || th.broken || in.answered(th) {
			return true
		}
	}
	return false
}
