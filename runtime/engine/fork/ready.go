package fork

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
)

// wait is a call in which a thread waits for descriptors or time: its number, or 0, and its first four arguments.
type wait struct {
	nr   uint64
	args [4]uint64
}

// waitOf is the call that the stopped thread is in, or has been kept from entering. The registers have not been rewound.
func waitOf(r *regs) wait {
	nr := r.Orig_rax
	if int64(nr) < 0 {
		nr = r.Rax // put off: see putOff
	}
	switch nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_SELECT, unix.SYS_PSELECT6,
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP:
		return wait{nr, [4]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10}}
	}
	return wait{}
}

// futexWord is the word that a wait on a futex is for, and the value with which it sleeps.
func (w *wait) futexWord() (addr uint64, val uint32, ok bool) {
	const command, waitBitset = 0x7f, 9
	op := w.args[1] & command
	return w.args[0], uint32(w.args[2]), w.nr == unix.SYS_FUTEX && (op == futexWait || op == waitBitset)
}

// answered reports whether the thread's wait on a futex would return at once: a thread that was parked after it has changed the word.
func (in *instance) answered(th *thread) bool {
	addr, val, ok := th.waits.futexWord()
	var word [4]byte
	return ok && readMem(in.a.PID, addr, word[:]) == nil && binary.LittleEndian.Uint32(word[:]) != val
}

// Ready implements engine.SocketHolder.
func (in *instance) Ready() bool {
	for i := range in.tracee.threads {
		if in.returns(&in.tracee.threads[i].waits) {
			return true
		}
	}
	return false
}

// Working implements engine.SocketHolder.
func (in *instance) Working() bool {
	for i := range in.tracee.threads {
		if th := &in.tracee.threads[i]; th.broken || th.unsettled && th.waits.nr == unix.SYS_FUTEX || in.answered(th) {
			return true
		}
	}
	return false
}

// Sleeps implements engine.SocketHolder.
func (in *instance) Sleeps() bool {
	for i := range in.tracee.threads {
		if in.sleeps(&in.tracee.threads[i].waits) {
			return true
		}
	}
	return false
}

// soon is how long a wait may be for what it ends in to be part of a request, in ns.
const soon = 1_000_000_000

func (in *instance) sleeps(w *wait) bool {
	const (
		absolute   = 1 // TIMER_ABSTIME
		command    = 0x7f
		realtime   = 0x100
		waitBitset = 9
	)
	var at uint64
	clock := int32(-1) // of an absolute time
	switch w.nr {
	case unix.SYS_NANOSLEEP:
		at = w.args[0]
	case unix.SYS_CLOCK_NANOSLEEP:
		if at = w.args[2]; w.args[1]&absolute != 0 {
			clock = int32(w.args[0])
		}
	case unix.SYS_FUTEX:
		if at = w.args[3]; w.args[1]&command == waitBitset {
			clock = unix.CLOCK_MONOTONIC
			if w.args[1]&realtime != 0 {
				clock = unix.CLOCK_REALTIME
			}
		}
	}
	if at == 0 {
		return false
	}
	var b [16]byte
	if readMem(in.a.PID, at, b[:]) != nil {
		return false
	}
	ns := int64(binary.LittleEndian.Uint64(b[:]))*1e9 + int64(binary.LittleEndian.Uint64(b[8:]))
	if clock >= 0 {
		var now unix.Timespec
		if unix.ClockGettime(clock, &now) != nil {
			return false
		}
		ns -= now.Nano()
	}
	return ns < soon
}

// returns reports whether the call would return at once.
func (in *instance) returns(w *wait) bool {
	switch w.nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2:
		return in.polls(int(int32(w.args[0])), unix.POLLIN)
	case unix.SYS_POLL, unix.SYS_PPOLL:
		var b [8]byte
		for i := range min(w.args[1], 1024) {
			if readMem(in.a.PID, w.args[0]+8*i, b[:]) != nil {
				return false
			}
			fd := int(int32(binary.LittleEndian.Uint32(b[:])))
			if fd >= 0 && in.polls(fd, int16(binary.LittleEndian.Uint16(b[4:]))) {
				return true
			}
		}
	case unix.SYS_SELECT, unix.SYS_PSELECT6:
		for set, events := range [...]int16{unix.POLLIN, unix.POLLOUT, unix.POLLPRI} {
			if at := w.args[1+set]; at != 0 && in.selects(at, w.args[0], events) {
				return true
			}
		}
	}
	return false
}

// selects is returns for one of the sets of select.
func (in *instance) selects(at, n uint64, events int16) bool {
	var b [8]byte
	for first := uint64(0); first < min(n, 1024); first += 64 {
		if readMem(in.a.PID, at+first/8, b[:]) != nil {
			return false
		}
		for word := binary.LittleEndian.Uint64(b[:]); word != 0; word &= word - 1 {
			if fd := first + uint64(bits.TrailingZeros64(word)); fd < n && in.polls(int(fd), events) {
				return true
			}
		}
	}
	return false
}

// polls reports whether poll would report one of the events, an error or a hang-up for the instance's descriptor.
func (in *instance) polls(fd int, events int16) bool {
	own, err := unix.PidfdGetfd(in.a.pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(own)
	p := [1]unix.PollFd{{Fd: int32(own), Events: events}}
	n, err := unix.Poll(p[:], 0)
	return n > 0 && err == nil
}
