package fdplan

import (
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

// SetOptions sets options that Options has read.
func SetOptions(s int, options []Option) error {
	for _, o := range options {
		if err := setsockopt(s, o); err != nil {
			return err
		}
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
