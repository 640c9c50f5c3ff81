package fork

import (
	"encoding/binary"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A wait with a timeout that parking breaks off is made again from the frame when the instance is activated. It keeps the deadline
// that it had when it was broken off for the first time: if that has passed, the call is completed in the frame as one that has timed out.
//
// A thread that is stopped in such a call once more may be in the same wait still, or have made the same call anew. The frame
// tells: it has two flags set that no instruction leaves set together, and that the first comparison after the call resets.

// timedWait is a wait with a timeout. One until a time of a clock has a deadline and nothing else: it is made again as it was.
type timedWait struct {
	nr       uint64
	rip      uint64 // behind the call
	rsp, rcx uint64
	left     uint64 // where the kernel has left the time that remained, in two words; 0: nowhere
	deadline int64  // of monotonic; 0: it does not wait for one
}

// stillWaits are the flags SF and ZF.
const stillWaits = 0x80 | 0x40

var epoch = time.Now()

// monotonic is a time that goes on while nothing is running, in nanoseconds; it is not 0.
func monotonic() int64 { return int64(time.Since(epoch)) + 1 }

// timeout is where a call has its timeout: in a register, in milliseconds, or behind a pointer to seconds and a fraction.
type timeout struct {
	millis   bool
	value    uint64
	micros   bool // the fraction is one of microseconds
	updated  bool // the kernel leaves there what remained
	absolute bool // it is a time of the clock
	clock    int32
}

// timeoutOf tells what timeout the call nr of the stopped thread has. false: none.
func timeoutOf(nr uint64, r *regs) (timeout, bool) {
	t := timeout{}
	switch nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT:
		t.millis, t.value = true, r.R10
	case unix.SYS_POLL:
		t.millis, t.value = true, r.Rdx
	case unix.SYS_EPOLL_PWAIT2:
		t.value = r.R10
	case unix.SYS_PPOLL:
		t.value, t.updated = r.Rdx, true
	case unix.SYS_SELECT:
		t.value, t.updated, t.micros = r.R8, true, true
	case unix.SYS_PSELECT6:
		t.value, t.updated = r.R8, true
	case unix.SYS_RT_SIGTIMEDWAIT:
		t.value = r.Rdx
	case unix.SYS_NANOSLEEP:
		t.value = r.Rdi
	case unix.SYS_CLOCK_NANOSLEEP:
		switch r.Rdi {
		case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI:
		default:
			return t, false // it waits for CPU time
		}
		t.value, t.absolute, t.clock = r.Rdx, r.Rsi&unix.TIMER_ABSTIME != 0, int32(r.Rdi)
	case unix.SYS_FUTEX_WAITV:
		t.value, t.absolute, t.clock = r.R10, true, int32(r.R8)
	case unix.SYS_FUTEX:
		t.futex(r)
	default:
		return t, false
	}
	if t.millis {
		return t, int32(t.value) > 0
	}
	return t, t.value != 0
}

// futex fills in the timeout of the futex call.
func (t *timeout) futex(r *regs) {
	const (
		private, realtime = 128, 256
		lockPI            = 6
		waitBitset        = 9
		waitRequeuePI     = 11
		lockPI2           = 13
	)
	op := r.Rsi &^ (private | realtime)
	switch op {
	case futexWait:
		t.value = r.R10
	case lockPI, waitBitset, waitRequeuePI, lockPI2:
		t.value, t.absolute, t.clock = r.R10, true, unix.CLOCK_MONOTONIC
		if op == lockPI || r.Rsi&realtime != 0 {
			t.clock = unix.CLOCK_REALTIME
		}
	}
}

// read returns the timeout in nanoseconds; 0: it cannot be told, or is for ever.
func (t timeout) read(pid int) int64 {
	if t.millis {
		return int64(int32(t.value)) * int64(time.Millisecond)
	}
	var v [2]int64
	local := unix.Iovec{Base: (*byte)(unsafe.Pointer(&v)), Len: 16}
	remote := unix.RemoteIovec{Base: uintptr(t.value), Len: 16}
	n, _, e := unix.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
	if e != 0 || n != 16 || v[0] < 0 || v[1] < 0 || v[0] > math.MaxInt64/int64(time.Second)/2 {
		return 0
	}
	unit := int64(time.Nanosecond)
	if t.micros {
		unit = int64(time.Microsecond)
	}
	return v[0]*int64(time.Second) + min(v[1], int64(time.Second))*unit
}

// noteWait takes note of the call that the stopped thread will make again when it goes on. Its registers have not been rewound.
func (t *tracee) noteWait(th *thread) {
	r := &th.regs
	if t.arena.inStub(r.Rip) {
		return // it is where it was
	}
	was := th.timed
	th.timed = timedWait{}
	nr, rip := r.Orig_rax, r.Rip
	switch {
	case th.putOff:
		nr, rip = r.Rax, rip+2
	case !interrupted(r):
		return
	}
	limit, ok := timeoutOf(nr, r)
	if !ok {
		return
	}
	if was.deadline != 0 && was.nr == nr && was.rip == rip && was.rsp == r.Rsp && r.Eflags&stillWaits == stillWaits {
		th.timed = was
		return
	}
	d := limit.read(t.pid)
	if d == 0 {
		return
	}
	if limit.absolute {
		var now unix.Timespec
		if unix.ClockGettime(limit.clock, &now) == nil {
			th.timed.deadline = max(monotonic()+d-now.Nano(), 1)
		}
		return
	}
	th.timed = timedWait{nr: nr, rip: rip, rsp: r.Rsp, rcx: r.Rcx, deadline: monotonic() + d}
	if limit.updated {
		th.timed.left = limit.value
	}
}

// due is the earliest deadline of the threads that are stopped or in the stub; 0: there is none.
func (t *tracee) due() int64 {
	first := int64(0)
	for i := range t.threads {
		th := &t.threads[i]
		if at := th.timed.deadline; (th.held || th.place == placeStub) && at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// expire lets the waits of threads in the stub time out whose deadline has passed. One that cannot be, since the instance has
// destroyed its own memory, is made again in full.
func (t *tracee) expire(a arena, now int64) {
	for i := range t.threads {
		th := &t.threads[i]
		if th.place != placeStub || th.timed.nr == 0 || th.timed.deadline > now {
			continue
		}
		w := th.timed    // which it keeps until the thread has left the stub
		if w.left != 0 { // it is for the kernel to see that nothing is left, and to clear the sets
			t.poke(w.left, 0, 0)
			continue
		}
		result := int64(0)
		switch w.nr {
		case unix.SYS_FUTEX:
			result = -int64(unix.ETIMEDOUT)
		case unix.SYS_RT_SIGTIMEDWAIT:
			result = -int64(unix.EAGAIN)
		}
		// All at once: a thread that had the result and not the address would make another call.
		t.poke(a.slot(th.state.Slot)+slotFrame+ucRegs+8*13, uint64(result), w.rcx, w.rsp, w.rip)
	}
}

// poke writes up to four words into the process' memory.
func (t *tracee) poke(at uint64, words ...uint64) {
	var b [4 * 8]byte
	for i, w := range words {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	local := unix.Iovec{Base: &b[0], Len: uint64(8 * len(words))}
	remote := unix.RemoteIovec{Base: uintptr(at), Len: 8 * len(words)}
	_, _, _ = unix.RawSyscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(t.pid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
}
