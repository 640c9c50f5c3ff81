package socket

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls in this file do not block and are made without telling the Go scheduler, which would cost as much
// as the calls themselves. Only wait hands the processor back.

func send(fd int, p []byte) (int, unix.Errno) {
	for {
		r, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func receive(fd int, p []byte) (int, unix.Errno) {
	for {
		r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// unconsumed is the number of bytes sent on fd that the other end has not taken yet, or -1. For a unix socket it
// counts the kernel's buffers, so only zero is exact.
func unconsumed(fd int) int {
	var n int32
	if _, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n))); e != 0 {
		return -1
	}
	return int(n)
}

// unread reports whether there are bytes to read on fd.
func unread(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	return err != nil || n > 0
}

func shutdown(fd, how int) {
	_, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
}

// pollNow returns what poll reports of fd besides the events that are always reported.
func pollNow(fd int, events int16) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	if n, err := unix.Poll(p[:], 0); n < 1 || err != nil {
		return 0
	}
	return p[0].Revents
}

// wait waits for events, at most ns nanoseconds; ns < 0 means for ever.
func wait(epfd int, evs []unix.EpollEvent, ns int64) (int, unix.Errno) {
	if ns == 0 {
		r, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])),
			uintptr(len(evs)), 0, 0, 0)
		return int(r), e
	}
	if ns < 0 {
		r, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])),
			uintptr(len(evs)), ^uintptr(0), 0, 0)
		return int(r), e
	}
	ts := unix.NsecToTimespec(ns)
	r, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])),
		uintptr(len(evs)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if e == unix.ENOSYS { // before Linux 5.11
		r, _, e = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])),
			uintptr(len(evs)), uintptr((ns+999_999)/1_000_000), 0, 0)
	}
	return int(r), e
}

func isUnix(fd int) bool {
	d, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && d == unix.AF_UNIX
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// statFields are those of /proc/PID/stat after the command name: state ppid pgrp …
func statFields(b []byte) []string {
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}
