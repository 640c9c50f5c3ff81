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
		p.Options = Options(s, p.Family)
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

// Options reads the options of socket s that a service may have set and that one in its place has to get.
func Options(s, family int) []Option {
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
