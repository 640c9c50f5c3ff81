package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// Of linux/sock_diag.h and linux/unix_diag.h.
const (
	sockDiagByFamily = 20
	unixDiagShowPeer = 0x4
	unixDiagPeer     = 2
	anyCookie        = 0xffffffff
)

// unixPeer is the inode number of the socket at the other end of a unix socket, 0 if that end is closed.
func (in *inspection) unixPeer(inode uint64) (uint64, error) {
	fd, err := in.diagSocket()
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	return askPeer(fd, uint32(inode))
}

// diagSocket opens a sock_diag socket in the network namespace of the process: it answers only for sockets there.
func (in *inspection) diagSocket() (int, error) {
	open := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	}
	mine, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return -1, err
	}
	if theirs, err := os.Readlink(in.dir + "/ns/net"); err != nil {
		return -1, err
	} else if mine == theirs {
		return open()
	}
	fd := -1
	err = osthread.Run(func() (err error) {
		ns, err := unix.Open(in.dir+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace of the process: %w", err)
		}
		fd, err = open()
		return err
	})
	return fd, err
}

func askPeer(fd int, inode uint32) (uint64, error) {
	const headerLen, requestLen = unix.SizeofNlMsghdr, 24
	msg := make([]byte, headerLen+requestLen)
	order := binary.NativeEndian
	order.PutUint32(msg[0:], uint32(len(msg)))
	order.PutUint16(msg[4:], sockDiagByFamily)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST)
	request := msg[headerLen:]
	request[0] = unix.AF_UNIX
	order.PutUint32(request[4:], ^uint32(0)) // all states
	order.PutUint32(request[8:], inode)
	order.PutUint32(request[12:], unixDiagShowPeer)
	order.PutUint32(request[16:], anyCookie)
	order.PutUint32(request[20:], anyCookie)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag request: %w", err)
	}
	reply := make([]byte, os.Getpagesize())
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return 0, fmt.Errorf("sock_diag reply: %w", err)
	}
	return parsePeer(reply[:n])
}

func parsePeer(reply []byte) (uint64, error) {
	order := binary.NativeEndian
	const headerLen, bodyLen, attributeHead = unix.SizeofNlMsghdr, 16, 4
	if len(reply) < headerLen {
		return 0, errors.New("sock_diag reply: too short")
	}
	switch kind := order.Uint16(reply[4:]); {
	case kind == unix.NLMSG_ERROR && len(reply) >= headerLen+4:
		return 0, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(order.Uint32(reply[headerLen:]))))
	case kind != sockDiagByFamily || len(reply) < headerLen+bodyLen:
		return 0, fmt.Errorf("sock_diag reply: unexpected message type %d", kind)
	}
	for rest := reply[headerLen+bodyLen:]; len(rest) >= attributeHead; {
		length := int(order.Uint16(rest))
		if length < attributeHead || length > len(rest) {
			return 0, errors.New("sock_diag reply: malformed attribute")
		}
		if order.Uint16(rest[2:]) == unixDiagPeer && length >= attributeHead+4 {
			return uint64(order.Uint32(rest[attributeHead:])), nil
		}
		rest = rest[min(len(rest), (length+3)&^3):]
	}
	return 0, nil // no peer any more
}
