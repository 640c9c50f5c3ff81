package fdplan

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// Netns is a network namespace that belongs to the engine. TCP listeners of instances live in it, so that no other
// process of the host can reach them past the gate. It exists while a descriptor refers to it or a socket lives in it.
// The zero value is ready for use; its methods may be called from any goroutine.
type Netns struct {
	mu sync.Mutex
	fd int // 0: not made yet
}

// enter runs fn on a thread inside the namespace, which is made on first use.
func (n *Netns) enter(fn func() error) error {
	return osthread.Run(func() error { return n.inside(fn) })
}

func (n *Netns) inside(fn func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd != 0 {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace for TCP listeners: %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := loopbackUp(); err != nil {
		return err
	}
	if n.fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return err
	}
	return fn()
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

func loopback(family, port int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		a := &unix.SockaddrInet6{Port: port}
		a.Addr[15] = 1
		return a
	}
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

// Listen binds a listening socket of the family to a free port of the namespace's loopback address.
func (n *Netns) Listen(family int) (fd int, address string, err error) {
	err = n.enter(func() error {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, loopback(family, 0)); err != nil {
			unix.Close(fd)
			return err
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			unix.Close(fd)
			return err
		}
		address = fmt.Sprint(port(sa))
		return nil
	})
	return fd, address, err
}

func port(sa unix.Sockaddr) int {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

// Dial connects to a port of the namespace's loopback address.
func (n *Netns) Dial(family, port int) (fd int, err error) {
	err = n.enter(func() error {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, loopback(family, port)); err != nil {
			unix.Close(fd)
			return err
		}
		return unix.SetNonblock(fd, true)
	})
	return fd, err
}

// Pair makes two connected TCP sockets; the first is the accepted one.
func (n *Netns) Pair(family int) (accepted, dialled int, err error) {
	l, _, err := n.Listen(family)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(l)
	if err := unix.Listen(l, 1); err != nil {
		return -1, -1, err
	}
	sa, err := unix.Getsockname(l)
	if err != nil {
		return -1, -1, err
	}
	if dialled, err = n.Dial(family, port(sa)); err != nil {
		return -1, -1, err
	}
	if accepted, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
		unix.Close(dialled)
		return -1, -1, err
	}
	return accepted, dialled, nil
}

// Inherit takes over the namespace in which an existing socket lives (SIOCGSKNS).
func (n *Netns) Inherit(sock int) error {
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCGSKNS, 0)
	if e != 0 {
		return fmt.Errorf("network namespace of a listener: %w", e)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd != 0 {
		unix.Close(int(fd))
		return nil
	}
	n.fd = int(fd)
	return nil
}

// Close lets go of the namespace; sockets keep it alive.
func (n *Netns) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd != 0 {
		unix.Close(n.fd)
		n.fd = 0
	}
}
