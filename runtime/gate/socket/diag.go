package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/unixdiag"
)

// sock_diag: what the kernel knows of a socket that is not ours. linux/unix_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	nlHeader         = 16
	inetMsgLen       = 72
)

var errNoSocket = errors.New("the kernel does not know such a socket")

// A prober asks about unix sockets, over one netlink socket that it keeps.
type prober struct {
	fd    int // -1: none yet
	reply [unixdiag.ReplySize]byte
}

func (p *prober) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

// peerInode is the inode of the socket at the other end of fd, which is connected; 0 if it has not been accepted.
func (p *prober) peerInode(fd int) (uint64, error) {
	if !isUnix(fd) {
		_, ino, err := inetPeer(fd)
		if errors.Is(err, errNoSocket) {
			err = nil
		}
		return uint64(ino), err
	}
	own, err := inode(fd)
	if err != nil {
		return 0, err
	}
	if p.fd < 0 {
		if p.fd, err = unixdiag.Open(0); err != nil {
			return 0, fmt.Errorf("sock_diag: %w", err)
		}
	}
	s, err := unixdiag.Ask(p.fd, own, p.reply[:])
	return s.Peer, err
}

// clientUID is the owner of the socket at the other end of fd, a TCP connection on this host.
func clientUID(fd int) (uint32, error) {
	uid, _, err := inetPeer(fd)
	if err != nil {
		return 0, fmt.Errorf("owner of the client's socket: %w", err)
	}
	return uid, nil
}

// inetPeer looks up the socket whose addresses are those of fd the other way round.
func inetPeer(fd int) (uid, ino uint32, err error) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return 0, 0, err
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, err
	}
	req := make([]byte, 56) // struct inet_diag_req_v2
	req[1] = unix.IPPROTO_TCP
	ne := binary.NativeEndian
	ne.PutUint32(req[4:], ^uint32(0)) // all states
	req[0] = putAddr(req[8:], req[12:], peer)
	putAddr(req[10:], req[28:], own)
	ne.PutUint32(req[48:], ^uint32(0))
	ne.PutUint32(req[52:], ^uint32(0))
	msg, err := diag(req)
	if err != nil {
		return 0, 0, err
	}
	if len(msg) < inetMsgLen {
		return 0, 0, errNoSocket
	}
	return ne.Uint32(msg[64:]), ne.Uint32(msg[68:]), nil
}

func putAddr(port, addr []byte, sa unix.Sockaddr) byte {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		binary.BigEndian.PutUint16(port, uint16(a.Port))
		copy(addr, a.Addr[:])
		return unix.AF_INET
	case *unix.SockaddrInet6:
		binary.BigEndian.PutUint16(port, uint16(a.Port))
		copy(addr, a.Addr[:])
		return unix.AF_INET6
	}
	return unix.AF_UNSPEC
}

// diag asks for one socket and returns the message about it without the netlink header.
func diag(req []byte) ([]byte, error) {
	s, err := unixdiag.Open(0)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(s)
	reply := make([]byte, unixdiag.ReplySize)
	b := make([]byte, nlHeader+len(req))
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], sockDiagByFamily)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	copy(b[nlHeader:], req)
	if err := unix.Sendto(s, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	n, _, err := unix.Recvfrom(s, reply, 0)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	if n < nlHeader {
		return nil, errNoSocket
	}
	reply = reply[:min(n, int(ne.Uint32(reply)))]
	if ne.Uint16(reply[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-*(*int32)(unsafe.Pointer(&reply[nlHeader])))
		if errno == unix.ENOENT || errno == 0 {
			return nil, errNoSocket
		}
		return nil, fmt.Errorf("sock_diag: %w", errno)
	}
	return reply[nlHeader:], nil
}
