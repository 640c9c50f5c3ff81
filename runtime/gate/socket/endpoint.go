package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/sockpath"
)

const (
	backlog     = 4096 // capped by net.core.somaxconn
	asideSuffix = ".corsa-service"
	tempInfix   = ".corsa-" // before a pid
)

// An endpoint is a public address of the service that the gate has taken over.
type endpoint struct {
	index    int
	network  string
	address  string
	original string // where the service's own socket can be seen; may be empty
	fd       int
	slot     int32
	bound    bool
	dev, ino uint64 // of the socket file that the gate bound
	aside    bool   // the service's socket file was kept
}

func (ep *endpoint) listen() error {
	var err error
	if ep.network == "unix" {
		err = ep.listenUnix()
	} else {
		err = ep.listenTCP()
	}
	if err != nil && ep.fd >= 0 {
		_ = unix.Close(ep.fd)
		ep.fd = -1
	}
	if err != nil {
		return fmt.Errorf("endpoint %s %s: %w", ep.network, ep.address, err)
	}
	return nil
}

func (ep *endpoint) listenTCP() error {
	ap, err := netip.ParseAddrPort(ep.address)
	if err != nil {
		return err
	}
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(ap.Port()), Addr: v4(ap.Addr())})
	if ap.Addr().Is6() && !ap.Addr().Is4In6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	}
	if ep.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(ep.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(ep.fd, sa); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return unix.Listen(ep.fd, backlog)
}

// listenUnix binds a temporary name and renames it over the public one, which therefore never disappears.
func (ep *endpoint) listenUnix() error {
	if err := ep.checkVacant(); err != nil {
		return err
	}
	mode, uid, gid := ep.permissions()
	var err error
	if ep.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	temp := ep.address + tempInfix + strconv.Itoa(os.Getpid())
	if err := bindUnix(ep.fd, temp); err != nil {
		return fmt.Errorf("bind %s: %w", temp, err)
	}
	if err := ep.install(temp, mode, uid, gid); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return nil
}

// install gives the socket at temp its permissions, a backlog and the public name.
func (ep *endpoint) install(temp string, mode fs.FileMode, uid, gid int) error {
	if err := os.Lchown(temp, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(temp, mode); err != nil {
		return err
	}
	if err := unix.Listen(ep.fd, backlog); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(temp, &st); err != nil {
		return err
	}
	ep.dev, ep.ino = st.Dev, st.Ino
	if _, err := os.Lstat(ep.address); err == nil && !ep.aside {
		// The service's own socket stays reachable under another name, and comes back in the end.
		if err := os.Link(ep.address, ep.address+asideSuffix); err != nil {
			return fmt.Errorf("keep the service's socket: %w", err)
		}
		ep.aside = true
	}
	if err := os.Rename(temp, ep.address); err != nil {
		if ep.aside {
			_ = os.Remove(ep.address + asideSuffix)
			ep.aside = false
		}
		return err
	}
	ep.bound = true
	return nil
}

// checkVacant looks at what stands at the public path. A socket that was kept aside by a gate that was killed
// is still the service's; what that gate left at the public path is not.
func (ep *endpoint) checkVacant() error {
	fi, err := os.Lstat(ep.address)
	if errors.Is(err, fs.ErrNotExist) {
		fi = nil
	} else if err != nil {
		return err
	} else if fi.Mode()&fs.ModeSocket == 0 {
		return errors.New("the path is taken by something that is not a socket; remove it or choose another")
	}
	if _, err := os.Lstat(ep.address + asideSuffix); err != nil {
		return nil
	}
	if fi != nil && listening(ep.address) {
		return errors.New("another gate serves this path; delete its service first")
	}
	ep.aside = true
	return nil
}

// permissions are those that the service gave its socket.
func (ep *endpoint) permissions() (fs.FileMode, int, int) {
	for _, path := range []string{ep.original, ep.address + asideSuffix, ep.address} {
		var st unix.Stat_t
		if path != "" && unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return fs.FileMode(st.Mode & 0o777), int(st.Uid), int(st.Gid)
		}
	}
	return 0o777, os.Getuid(), os.Getgid()
}

// close gives the public name back: to the service if it still listens, else to nobody.
func (ep *endpoint) close() error {
	if ep.fd >= 0 {
		_ = unix.Close(ep.fd)
		ep.fd = -1
	}
	if !ep.bound {
		return nil
	}
	ep.bound = false
	aside := ep.address + asideSuffix
	var st unix.Stat_t
	if err := unix.Lstat(ep.address, &st); err != nil || st.Dev != ep.dev || st.Ino != ep.ino {
		return nil // somebody has put another one there; the one kept aside is left for whoever did
	}
	if ep.aside && listening(aside) {
		return os.Rename(aside, ep.address)
	}
	err := os.Remove(ep.address)
	if ep.aside {
		err = errors.Join(err, os.Remove(aside))
	}
	return err
}

// endpointOf is the index of the endpoint that a socket of an instance was accepted at: its name is that of the instance's own
// listener, or of a gate's, which binds a temporary name in the public one's directory.
func (g *Gate) endpointOf(s engine.Socket) int {
	if s.Listener >= 0 {
		return s.Listener
	}
	for _, ep := range g.eps {
		if ep.network == "unix" && strings.HasPrefix(filepath.Base(s.Local), filepath.Base(ep.address)+tempInfix) {
			return ep.index
		}
	}
	return 0
}

// listening reports whether somebody listens on the socket at path.
func listening(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = sockpath.With(path, func(p string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: p}) })
	return err == nil || errors.Is(err, unix.EAGAIN)
}

func bindUnix(fd int, path string) error {
	_ = os.Remove(path) // left by a process that had our pid
	return sockpath.With(path, func(p string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: p}) })
}

func v4(a netip.Addr) [4]byte {
	if a = a.Unmap(); a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
