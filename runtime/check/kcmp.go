package check

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kinds of kcmp(2) comparisons.
const (
	kcmpFiles    = 2
	kcmpFS       = 3
	kcmpEpollTFD = 7
)

// kcmp tells whether two tasks share a kernel object. It needs CONFIG_KCMP and the right to read both.
func kcmp(pid1, pid2, kind int, i1, i2 uintptr) (same bool, err error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), uintptr(kind), i1, i2, 0)
	if errno != 0 {
		return false, errno
	}
	return r == 0, nil
}

// epollSlot is struct kcmp_epoll_slot: the nth entry of set efd that was added under number tfd.
type epollSlot struct{ efd, tfd, nth uint32 }

// kcmpEpoll tells whether descriptor fd of pid is still the file that slot of an epoll set of pid watches.
func kcmpEpoll(pid, fd int, slot *epollSlot) (same bool, err error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(pid), kcmpEpollTFD,
		uintptr(fd), uintptr(unsafe.Pointer(slot)), 0)
	if errno != 0 {
		return false, errno
	}
	return r == 0, nil
}
