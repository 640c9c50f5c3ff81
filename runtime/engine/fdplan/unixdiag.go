package fdplan

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// openDiag opens a sock_diag socket in the network namespace of the process: it answers only for sockets there.
func openDiag(pid int) (int, error) {
	open := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	}
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	theirs, err := os.Readlink(path)
	if err != nil {
		return -1, gone(pid, err)
	}
	if mine, err := os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return -1, err
	} else if mine == theirs {
		return open()
	}
	fd := -1
	err = osthread.Run(func() (err error) {
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return gone(pid, err)
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
		}
		fd, err = open()
		return err
	})
	return fd, err
}

// unixSocket is what sock_diag says of a unix socket.
type unixSocket struct {
	peer     uint64 // inode of the other end; 0: it has none
	shutdown int    // 1: it reads no more, 2: it writes no more
}

// unixEnds asks about the socket with the inode. ENOENT: there is none in the network namespace of the process.
func (c *Capturer) unixEnds(inode uint64) (u unixSocket, err error) {
	if c.diag == 0 {
		if c.diag, err = openDiag(c.PID); err != nil {
			return u, fmt.Errorf("sock_diag: %w", err)
		}
	}
	s := c.diag
	const showPeer, attrPeer, attrShutdown, msgSize, reqSize = 4, 2, 6, 16, 24
	ne := binary.NativeEndian
	q := make([]byte, unix.SizeofNlMsghdr+reqSize)
	ne.PutUint32(q, uint32(len(q)))
	ne.PutUint16(q[4:], 20) // SOCK_DIAG_BY_FAMILY
	ne.PutUint16(q[6:], unix.NLM_F_REQUEST)
	q[16] = unix.AF_UNIX
	ne.PutUint32(q[20:], ^uint32(0))
	ne.PutUint32(q[24:], uint32(inode))
	ne.PutUint32(q[28:], showPeer)
	ne.PutUint64(q[32:], ^uint64(0)) // no cookie
	if err := unix.Sendto(s, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return u, fmt.Errorf("sock_diag: %w", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, b, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return u, fmt.Errorf("sock_diag: short answer: %w", err)
	}
	b = b[:n]
	if ne.Uint16(b[4:]) == unix.NLMSG_ERROR {
		e := unix.Errno(-int32(ne.Uint32(b[unix.SizeofNlMsghdr:])))
		return u, fmt.Errorf("sock_diag: %w", e)
	}
	for a := b[unix.SizeofNlMsghdr+msgSize:]; len(a) >= 5; {
		l := int(ne.Uint16(a))
		switch ne.Uint16(a[2:]) {
		case attrPeer:
			if len(a) >= 8 {
				u.peer = uint64(ne.Uint32(a[4:]))
			}
		case attrShutdown:
			u.shutdown = int(a[4])
		}
		l = (l + 3) &^ 3
		if l < 4 || l > len(a) {
			break
		}
		a = a[l:]
	}
	return u, nil
}
