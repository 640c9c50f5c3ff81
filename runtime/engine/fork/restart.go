package fork

import "golang.org/x/sys/unix"

// Kernel-internal results of an interrupted system call (include/linux/errno.h); user space never sees them.
const (
	erestartsys          = -512
	erestartnointr       = -513
	erestartnohand       = -514
	erestartRestartblock = -516
)

// waitCall classifies system calls in which a service sits between transactions.
type waitCall uint8

const (
	notWait      waitCall = iota
	waitsOnly             // it consumes nothing: just returned is as good as still waiting
	waitsToTake           // it takes data when it returns: only while it blocks is nothing under way
	eintrOnStop  = 1 << 4 // it gives -EINTR for a stop that no handler saw
	waitKindMask = 0xf
)

// binderWriteRead is BINDER_WRITE_READ. The driver writes down how much it has taken before it returns, so that the call can be
// made again, and a thread that a stop has woken takes no work.
const binderWriteRead = 0xc0306201

// classify tells what the system call is that r has entered, or has just left.
func classify(r *regs) waitCall {
	switch r.Orig_rax {
	case unix.SYS_IOCTL:
		if uint32(r.Rsi) == binderWriteRead {
			return waitsToTake | eintrOnStop
		}
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_POLL, unix.SYS_PPOLL,
		unix.SYS_SELECT, unix.SYS_PSELECT6, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_PAUSE:
		return waitsOnly | eintrOnStop
	case unix.SYS_FUTEX:
		if futexWaits(r.Rsi) {
			return waitsOnly
		}
	case unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_FUTEX_WAITV, unix.SYS_NANOSLEEP,
		unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RT_SIGSUSPEND:
		return waitsOnly
	case unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS, unix.SYS_MSGRCV:
		return waitsToTake | eintrOnStop
	case unix.SYS_READ, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_WAIT4,
		unix.SYS_WAITID, unix.SYS_RESTART_SYSCALL:
		return waitsToTake
	}
	return notWait
}

// futexWaits reports whether the operation of futex(2) is one that waits: a thread that wakes others is at work.
func futexWaits(op uint64) bool {
	const command, lockPI, waitBitset, waitRequeuePI, lockPI2 = 0x7f, 6, 9, 11, 13
	switch op & command {
	case futexWait, lockPI, waitBitset, waitRequeuePI, lockPI2:
		return true
	}
	return false
}

// interrupted reports whether the stop broke off a system call that has to be made again.
func interrupted(r *regs) bool {
	if int64(r.Orig_rax) < 0 {
		return false
	}
	switch int64(r.Rax) {
	case erestartsys, erestartnointr, erestartnohand, erestartRestartblock:
		return true
	case -int64(unix.EINTR):
		return classify(r)&eintrOnStop != 0
	}
	return false
}

// atBoundary reports whether the stopped thread is between transactions.
func atBoundary(r *regs) bool {
	if int64(r.Orig_rax) < 0 {
		return false
	}
	switch classify(r) & waitKindMask {
	case waitsOnly:
		return true
	case waitsToTake:
		return interrupted(r)
	}
	return false
}

// hasResult reports whether the stopped thread has come out of a waiting call, with whatever result, and has yet to act on it.
func hasResult(r *regs) bool {
	return int64(r.Orig_rax) >= 0 && classify(r)&waitKindMask == waitsOnly && !interrupted(r)
}

// rewind makes the thread repeat a system call that the stop broke off, so that the service never sees EINTR
// for it. The caller has made sure that no real signal is pending, whose handler the EINTR would belong to.
// A relative timeout starts anew, except select's and ppoll's, which the kernel has counted down; see timedWait.
func rewind(r *regs) {
	if interrupted(r) {
		r.Rax = r.Orig_rax
		r.Rip -= 2
	}
	r.Orig_rax = ^uint64(0)
}
