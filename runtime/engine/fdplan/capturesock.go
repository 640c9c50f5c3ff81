package fdplan

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

func sortedKeys(m map[int]string) iter.Seq[int] {
	return slices.Values(slices.Sorted(maps.Keys(m)))
}

// keptOptions are options that services set on connections and that a new socket has to get.
var keptOptions = []struct{ level, name, family int }{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, unix.AF_INET},
	{unix.SOL_SOCKET, unix.SO_LINGER, 0},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 0},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 0},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, unix.AF_UNIX},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, unix.AF_INET},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, unix.AF_INET},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, unix.AF_INET},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, unix.AF_INET},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, unix.AF_INET},
}

func (c *Capturer) socket(fd int, link string) error {
	ino, _ := LinkInode(link)
	s, err := unix.PidfdGetfd(c.PIDFD, fd, 0)
	if err != nil {
		return gone(c.PID, err)
	}
	defer unix.Close(s)
	p := FD{FD: fd, Inode: ino}
	if p.Family, err = unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return err
	}
	if p.Type, err = unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return err
	}
	if p.Flags, err = unix.FcntlInt(uintptr(s), unix.F_GETFL, 0); err != nil {
		return err
	}
	info, err := c.info(fd) // F_GETFD of the duplicate would say nothing about the original
	if err != nil {
		return err
	}
	flags, err := openFlags(info)
	if err != nil {
		return err
	}
	p.Flags |= flags & unix.O_CLOEXEC
	listening, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return err
	}
	if listening != 0 {
		return c.listener(p, s)
	}
	if id, ok := c.Conns[ino]; ok {
		p.Kind, p.Conn = Conn, id
		p.Options = readOptions(s, p.Family)
		c.plan.FDs = append(c.plan.FDs, p)
		return nil
	}
	return c.otherSocket(p, s)
}

// listener plans a listening socket: the service's own at adopt, named by its address; an instance's, by its inode.
func (c *Capturer) listener(p FD, s int) error {
	p.Kind = Listen
	if i, ok := c.Listeners[p.Inode]; ok {
		p.Listener = i
		c.plan.FDs = append(c.plan.FDs, p)
		return nil
	}
	sa, err := unix.Getsockname(s)
	if err != nil {
		return err
	}
	name := socketAddress(sa)
	for i, a := range c.Declared {
		if a == name || a.Network == "tcp" && name.Network == "tcp" && anyAddressCovers(name.Address, a.Address) {
			p.Listener = i
			c.plan.FDs = append(c.plan.FDs, p)
			return nil
		}
	}
	c.block(p.FD, "listening on "+name.Address, "it is not declared, so apps would share it",
		"declare it with --socket or --tcp, or configure the service not to listen there")
	return nil
}

// anyAddressCovers reports whether a socket bound to every address serves the declared one.
func anyAddressCovers(bound, declared string) bool {
	_, want, _ := strings.Cut(declared, ":")
	host, port, _ := cutLast(bound, ":")
	return port == want && (host == "0.0.0.0" || host == "[::]")
}

func cutLast(s, sep string) (string, string, bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func socketAddress(sa unix.Sockaddr) engine.Address {
	switch a := sa.(type) {
	case *unix.SockaddrUnix:
		return engine.Address{Network: "unix", Address: a.Name}
	case *unix.SockaddrInet4:
		return engine.Address{Network: "tcp", Address: fmt.Sprintf("%d.%d.%d.%d:%d", a.Addr[0], a.Addr[1], a.Addr[2], a.Addr[3], a.Port)}
	case *unix.SockaddrInet6:
		if a.Addr == [16]byte{} {
			return engine.Address{Network: "tcp", Address: fmt.Sprintf("[::]:%d", a.Port)}
		}
		return engine.Address{Network: "tcp", Address: fmt.Sprintf("[%x]:%d", a.Addr, a.Port)}
	}
	return engine.Address{}
}

// otherSocket plans a socket that is neither a listener nor the gate's: one of a pair within the process.
func (c *Capturer) otherSocket(p FD, s int) error {
	if p.Family != unix.AF_UNIX {
		c.block(p.FD, "socket", "it does not belong to an app of this service and cannot be made anew",
			"close it while apps are served")
		return nil
	}
	peer, err := unixPeer(p.Inode)
	if err != nil {
		return err
	}
	for fd, link := range c.links {
		if ino, ok := LinkInode(link); ok && ino == peer && peer != 0 && strings.HasPrefix(link, "socket:") {
			p.Kind, p.Peer = Pair, fd
			p.Data, err = peekSocket(s)
			c.plan.FDs = append(c.plan.FDs, p)
			return err
		}
	}
	if _, err := unix.Getpeername(s); err != nil || peer == 0 {
		p.Kind = Closed // never connected, or its peer is gone: a socket at its end of file stands for it
		c.plan.FDs = append(c.plan.FDs, p)
		return nil
	}
	c.block(p.FD, "connected unix socket", "its other end is in another process that knows nothing of instances",
		"close it while apps are served")
	return nil
}

func peekSocket(s int) ([]byte, error) {
	n, err := unix.IoctlGetInt(s, unix.TIOCINQ)
	if err != nil || n == 0 {
		return nil, err
	}
	b := make([]byte, n)
	m, _, err := unix.Recvfrom(s, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return b[:max(m, 0)], err
}

func readOptions(s, family int) []Option {
	if family == unix.AF_INET6 {
		family = unix.AF_INET
	}
	var out []Option
	for _, o := range keptOptions {
		if o.family != 0 && o.family != family {
			continue
		}
		b := make([]byte, 16)
		n, err := getsockopt(s, o.level, o.name, b)
		if err != nil {
			continue // the kernel does not have it, so nobody has set it
		}
		if b = b[:n]; slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			out = append(out, Option{Level: o.level, Name: o.name, Value: b})
		}
	}
	return out
}
