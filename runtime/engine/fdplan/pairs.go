package fdplan

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/unixdiag"
)

// otherSocket plans a socket that is neither a listener nor the gate's: one of a pair within the process.
func (c *Capturer) otherSocket(p FD, s int) error {
	if p.Family != unix.AF_UNIX {
		c.block(p.FD, "socket", "it does not belong to an app of this service and cannot be made anew",
			"close it while apps are served")
		return nil
	}
	ends, err := c.unixEnds(p.Inode)
	if errors.Is(err, unix.ENOENT) {
		c.block(p.FD, "unix socket", "it was made in another network namespace than that of the service, and what is at its other end cannot be told",
			"let the service make it where it runs")
		return nil
	}
	if err != nil {
		return err
	}
	p.Shutdown = ends.Shutdown
	for fd, link := range c.links {
		if ino, ok := LinkInode(link); ok && ino == ends.Peer && ends.Peer != 0 && strings.HasPrefix(link, "socket:") {
			p.Kind, p.Peer = Pair, fd
			return c.pairEnd(p, s)
		}
	}
	if _, err := unix.Getpeername(s); err != nil || ends.Peer == 0 {
		return c.closedEnd(p, s)
	}
	c.block(p.FD, "connected unix socket", "its other end is in another process that knows nothing of instances",
		"close it while apps are served")
	return nil
}

// unixEnds asks about the socket with the inode. ENOENT: there is none in the network namespace of the process.
func (c *Capturer) unixEnds(inode uint64) (s unixdiag.Socket, err error) {
	if c.diag == 0 {
		if c.diag, err = unixdiag.Open(c.PID); err != nil {
			c.diag = 0
			return s, gone(c.PID, fmt.Errorf("sock_diag: %w", err))
		}
	}
	return unixdiag.Ask(c.diag, inode, make([]byte, unixdiag.ReplySize))
}

// closedEnd plans a socket that never was connected, or whose peer is gone: one at its end of file stands for it.
func (c *Capturer) closedEnd(p FD, s int) error {
	p.Kind = Closed
	n, err := unix.IoctlGetInt(s, unix.TIOCINQ)
	if err != nil {
		return err
	}
	switch {
	case n == 0:
	case p.Type == unix.SOCK_STREAM:
		if p.Data, err = peekStream(s, n); err != nil {
			return err
		}
	default: // whether these are all could only be told by its peer
		c.block(p.FD, "unix socket", "messages wait in it, and its peer is gone", "let the service read them")
		return nil
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

// pairEnd plans one end of a socket pair, with what can be read from it.
func (c *Capturer) pairEnd(p FD, s int) error {
	for i, name := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		var err error
		if p.Buffers[i], err = unix.GetsockoptInt(s, unix.SOL_SOCKET, name); err != nil {
			return err
		}
	}
	p.Options = Options(s, p.Family)
	if sa, err := unix.Getsockname(s); err != nil {
		return err
	} else if u, ok := sa.(*unix.SockaddrUnix); ok && strings.Trim(u.Name, "@\x00") != "" {
		c.block(p.FD, "unix socket "+u.Name, "it is a connection of the service to itself that has a name",
			"let the service use a socket pair or a pipe")
		return nil
	}
	// What the other end has sent and this one has not read is counted at the other end.
	peer, err := unix.PidfdGetfd(c.PIDFD, p.Peer, 0)
	if err != nil {
		return gone(c.PID, err)
	}
	defer unix.Close(peer)
	sent, err := unix.IoctlGetInt(peer, unix.TIOCOUTQ)
	if err != nil {
		return err
	}
	if sent > 0 {
		if why, err := c.contents(&p, s, sent); err != nil {
			return err
		} else if why != "" {
			c.block(p.FD, "unix socket pair", why, "let the service read what is in it")
			return nil
		}
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

// contents copies what can be read. why is not "" if that cannot be done to the last bit. sent is what the kernel accounts
// for it: contents and overhead.
func (c *Capturer) contents(p *FD, s, sent int) (why string, err error) {
	info, err := c.info(p.FD)
	if err != nil {
		return "", err
	}
	if n := Field(info, "scm_fds"); n != "" && n != "0" {
		return n + " descriptors are in flight in it", nil
	}
	if cred, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PASSCRED); err != nil || cred != 0 {
		return "what waits in it says who has sent it (SO_PASSCRED)", err
	}
	if p.Type == unix.SOCK_STREAM {
		n, err := unix.IoctlGetInt(s, unix.TIOCINQ)
		if err == nil && n > 0 {
			p.Data, err = peekStream(s, n)
		}
		return "", err
	}
	if p.Messages, err = peekMessages(s, sent); err != nil {
		return "", err
	}
	// Whether these are all shows when they are sent anew: an empty message that was looked at before is not shown again.
	same, err := sameSize(p.Type, p.Messages, sent)
	if err == nil && !same {
		why = "there are messages in it that cannot be looked at, such as empty ones"
	}
	return why, err
}

func peekStream(s, n int) ([]byte, error) {
	b := make([]byte, n)
	m, _, err := unix.Recvfrom(s, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err == nil && m != n {
		err = fmt.Errorf("%d of %d bytes can be looked at: is there out-of-band data among them", m, n)
	}
	return b, err
}

// peekMessages copies the messages, none of which has more than limit bytes.
func peekMessages(s, limit int) (messages [][]byte, err error) {
	const soPeekOff = 42
	was, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, soPeekOff)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, soPeekOff, 0); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.SetsockoptInt(s, unix.SOL_SOCKET, soPeekOff, was)) }()
	for b := make([]byte, limit); ; {
		n, _, _, _, err := unix.Recvmsg(s, b, nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return messages, nil
		case err != nil:
			return nil, err
		case n == 0: // empty, or at the end: sameSize tells
			return messages, nil
		}
		messages = append(messages, append([]byte(nil), b[:n]...))
	}
}

// sameSize reports whether the messages, sent anew, are accounted for as sent bytes.
func sameSize(typ int, messages [][]byte, sent int) (bool, error) {
	a, b, err := socketPair(typ)
	if err != nil {
		return false, err
	}
	defer unix.Close(a)
	defer unix.Close(b)
	if err := fill(a, nil, messages); err != nil {
		return false, err
	}
	n, err := unix.IoctlGetInt(a, unix.TIOCOUTQ)
	return n == sent, err
}

func socketPair(typ int) (int, int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	return p[0], p[1], nil
}

// fill sends what the other end is to read. However much it is, it fits: it did before.
func fill(s int, data []byte, messages [][]byte) error {
	if len(data) > 0 {
		messages = [][]byte{data}
	}
	room := 0
	for _, m := range messages {
		room += 2*len(m) + 4096
	}
	if room == 0 {
		return nil
	}
	if err := setBuffer(s, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, room); err != nil {
		return err
	}
	for _, m := range messages {
		for rest := m; ; {
			n, err := unix.SendmsgN(s, rest, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if err != nil {
				return fmt.Errorf("put %d bytes into a socket pair: %w", len(m), err)
			}
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
	}
	return nil
}

func setBuffer(s, name, force, n int) error {
	err := unix.SetsockoptInt(s, unix.SOL_SOCKET, force, n)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(s, unix.SOL_SOCKET, name, n)
	}
	return err
}

// closed makes a socket whose peer is gone, with what had been sent before.
func (m *Maker) closed(p *FD) error {
	a, b, err := socketPair(p.Type)
	if err == nil {
		err = fill(b, p.Data, nil)
		unix.Close(b)
	}
	return errors.Join(m.add(p, a, err), m.finish(p))
}

func (m *Maker) pair(p *FD) error {
	q := m.Plan.ByFD(p.Peer)
	a, b, err := socketPair(p.Type)
	if err := m.add(p, a, err); err != nil {
		return err
	}
	if q == nil || q.Kind != Pair {
		unix.Close(b)
		return fmt.Errorf("fd %d, its other end, is not in the plan", p.Peer)
	}
	if err := m.add(q, b, nil); err != nil {
		return err
	}
	return errors.Join(fill(b, p.Data, p.Messages), fill(a, q.Data, q.Messages), m.pairEnd(p, a), m.pairEnd(q, b))
}

// pairEnd gives a new end what the old one had.
func (m *Maker) pairEnd(p *FD, s int) error {
	for i, names := range [][2]int{{unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}, {unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}} {
		now, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, names[0])
		if err == nil && now != p.Buffers[i] && p.Buffers[i] > 0 {
			err = setBuffer(s, names[0], names[1], p.Buffers[i]/2) // the kernel doubles it
		}
		if err != nil {
			return err
		}
	}
	for bit, how := range []int{unix.SHUT_RD, unix.SHUT_WR} {
		if p.Shutdown>>bit&1 != 0 {
			if err := unix.Shutdown(s, how); err != nil {
				return err
			}
		}
	}
	return m.finish(p)
}
