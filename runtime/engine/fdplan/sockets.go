package fdplan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultPipe is the capacity of a new pipe in bytes.
const defaultPipe = 16 << 12

func getsockopt(s, level, name int, b []byte) (int, error) {
	n := uint32(len(b))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func setsockopt(s int, o Option) error {
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(s), uintptr(o.Level), uintptr(o.Name),
		uintptr(unsafe.Pointer(&o.Value[0])), uintptr(len(o.Value)), 0)
	if e != 0 {
		return fmt.Errorf("set option %d/%d: %w", o.Level, o.Name, e)
	}
	return nil
}

// InodeOf returns the number by which /proc and sock_diag name a socket.
func InodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// unixPeer asks sock_diag for the inode of the other end of a unix socket; 0 if it has none.
func unixPeer(inode uint64) (uint64, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(s)
	const showPeer, attrPeer, msgSize, reqSize = 4, 2, 16, 24
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
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, b, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return 0, fmt.Errorf("sock_diag: short answer: %w", err)
	}
	b = b[:n]
	if ne.Uint16(b[4:]) == unix.NLMSG_ERROR {
		e := unix.Errno(-int32(ne.Uint32(b[unix.SizeofNlMsghdr:])))
		if errors.Is(e, unix.ENOENT) {
			return 0, nil
		}
		return 0, fmt.Errorf("sock_diag: %w", e)
	}
	for a := b[unix.SizeofNlMsghdr+msgSize:]; len(a) >= 8; {
		l := int(ne.Uint16(a))
		if ne.Uint16(a[2:]) == attrPeer {
			return uint64(ne.Uint32(a[4:])), nil
		}
		l = (l + 3) &^ 3
		if l < 4 || l > len(a) {
			break
		}
		a = a[l:]
	}
	return 0, nil
}
