// Package unixdiag asks the kernel about unix sockets that are not ours, by sock_diag (linux/sock_diag.h, linux/unix_diag.h).
package unixdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

const (
	byFamily     = 20 // SOCK_DIAG_BY_FAMILY
	showPeer     = 0x4
	attrPeer     = 2
	attrShutdown = 6

	headerLen  = unix.SizeofNlMsghdr
	requestLen = 24 // struct unix_diag_req
	messageLen = 16 // struct unix_diag_msg
	attrLen    = 4
)

// ReplySize is enough for an answer.
const ReplySize = 4096

// Socket is what the kernel says of one.
type Socket struct {
	Peer     uint64 // inode of the other end; 0: it has none, or none yet
	Shutdown int    // 1: it reads no more, 2: it writes no more
}

// Open opens a netlink socket that answers for the sockets in the network namespace of the process, 0 being the calling thread. It
// belongs to the caller.
func Open(pid int) (int, error) {
	open := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	}
	if pid == 0 {
		return open()
	}
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	theirs, err := os.Readlink(path)
	if err != nil {
		return -1, err
	}
	if mine, err := os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return -1, err
	} else if mine == theirs {
		return open()
	}
	fd := -1
	err = osthread.Run(func() error {
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
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

// Ask asks about the socket with the inode, through fd, which Open has returned. reply is room for the answer, of ReplySize. ENOENT:
// there is none in that network namespace.
func Ask(fd int, inode uint64, reply []byte) (Socket, error) {
	var q [headerLen + requestLen]byte
	ne := binary.NativeEndian
	ne.PutUint32(q[:], uint32(len(q)))
	ne.PutUint16(q[4:], byFamily)
	ne.PutUint16(q[6:], unix.NLM_F_REQUEST)
	request := q[headerLen:]
	request[0] = unix.AF_UNIX
	ne.PutUint32(request[4:], ^uint32(0)) // all states
	ne.PutUint32(request[8:], uint32(inode))
	ne.PutUint32(request[12:], showPeer)
	ne.PutUint64(request[16:], ^uint64(0)) // no cookie
	if err := unix.Sendto(fd, q[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Socket{}, fmt.Errorf("sock_diag request: %w", err)
	}
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return Socket{}, fmt.Errorf("sock_diag reply: %w", err)
	}
	return parse(reply[:n])
}

func parse(reply []byte) (s Socket, err error) {
	ne := binary.NativeEndian
	if len(reply) < headerLen {
		return s, errors.New("sock_diag reply: too short")
	}
	switch kind := ne.Uint16(reply[4:]); {
	case kind == unix.NLMSG_ERROR && len(reply) >= headerLen+4:
		return s, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(ne.Uint32(reply[headerLen:]))))
	case kind != byFamily || len(reply) < headerLen+messageLen:
		return s, fmt.Errorf("sock_diag reply: unexpected message type %d", kind)
	}
	for rest := reply[headerLen+messageLen:]; len(rest) >= attrLen; {
		length := int(ne.Uint16(rest))
		if length < attrLen || length > len(rest) {
			return s, errors.New("sock_diag reply: malformed attribute")
		}
		switch value := rest[attrLen:length]; {
		case ne.Uint16(rest[2:]) == attrPeer && len(value) >= 4:
			s.Peer = uint64(ne.Uint32(value))
		case ne.Uint16(rest[2:]) == attrShutdown && len(value) >= 1:
			s.Shutdown = int(value[0])
		}
		rest = rest[min(len(rest), (length+3)&^3):]
	}
	return s, nil
}
