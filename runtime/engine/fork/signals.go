package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// Pending signals and timers belong to a thread group, which a fork begins anew. They are read from the parked threads when an
// image is captured, and queued and armed by the threads of an instance themselves, before they park for the first time.
//
// Timers go on while an instance is dormant. All signals are blocked in the stub, so what a timer sends waits until the instance is
// activated, as it would for a service that is busy.

// signals is what a thread group has pending or is about to get. What is pending for one thread is in threadState.
type signals struct {
	Pending   []siginfo    `json:"pending,omitempty"` // for the process, in their order
	Timers    []posixTimer `json:"timers,omitempty"`  // in the order of their ids
	Intervals [3]itimerval `json:"intervals,omitzero"`
}

func (s *signals) empty() bool {
	return s == nil || len(s.Pending) == 0 && len(s.Timers) == 0 && s.Intervals == [3]itimerval{}
}

// ordered reports whether there are timers, whose signals may come at any time.
func (s *signals) ordered() bool {
	return s != nil && (len(s.Timers) > 0 || s.Intervals != [3]itimerval{})
}

// siginfo is siginfo_t.
type siginfo []byte

const siginfoSize = 128

func (s siginfo) signal() int { return int(int32(binary.LittleEndian.Uint32(s))) }

// maxPending is how many signals are carried for one thread, and eight times as many for the process: what fits a batch.
const maxPending = 16

// noted reports whether a thread, whose slot begins with b, said when it parked that a signal was pending or an interval timer
// armed. What comes later comes from a timer, or from outside: that is not part of the state in which it was parked.
func noted(b []byte) bool {
	for _, c := range b[slotNotes:slotNotesEnd] {
		if c != 0 {
			return true
		}
	}
	return false
}

// parkedGroup is a process all of whose threads are parked.
type parkedGroup struct {
	t       *tracee
	arena   arena
	side    int
	limit   int64 // seconds, for provisional parking
	seccomp bool
	files   *procFiles
}

// readSignals reads what the group has pending and what timers it has, and the threads' own pending signals into states. It
// stops nothing unless there is something: the threads have noted whether there is.
func (g *parkedGroup) readSignals(states []threadState) (*signals, error) {
	timers, err := listTimers(g.files)
	if err != nil {
		return nil, err
	}
	restless := len(timers) > 0 || g.seccomp // then the threads do not say
	for i := range g.t.threads {
		restless = restless || g.t.threads[i].noted
	}
	if !restless {
		return nil, nil
	}
	for i := range timers {
		if err := timers[i].resolve(g.t, states); err != nil {
			return nil, err
		}
	}
	if err := g.t.stopParked(); err != nil {
		g.t.release()
		return nil, err
	}
	defer g.t.release()
	s := &signals{Timers: timers}
	if err := g.peek(s, states); err != nil {
		return nil, err
	}
	if err := g.readTimers(s); err != nil {
		return nil, err
	}
	if s.empty() {
		return nil, nil
	}
	return s, nil
}

// peek reads the queues of pending signals.
func (g *parkedGroup) peek(s *signals, states []threadState) error {
	byTID := map[int]*threadState{}
	for i := range states {
		states[i].Pending = nil
		byTID[states[i].TID] = &states[i]
	}
	for i := range g.t.threads {
		th := &g.t.threads[i]
		if i == 0 {
			const shared = 1 // PTRACE_PEEKSIGINFO_SHARED
			var err error
			if s.Pending, err = peekSignals(th.tid, shared, 8*maxPending); err != nil {
				return g.tooMany(th.tid, err)
			}
		}
		own, err := peekSignals(th.tid, 0, maxPending)
		if err != nil {
			return g.tooMany(th.tid, err)
		}
		if state := byTID[th.state.TID]; state != nil {
			state.Pending = own
		}
	}
	return nil
}

func (g *parkedGroup) tooMany(tid int, err error) error {
	if !errors.Is(err, errMany) {
		return gone(tid, err)
	}
	return &engine.Refusal{PID: g.t.pid, Blockers: []engine.Blocker{{
		Object: fmt.Sprintf("thread %d (pending signals)", tid), Reason: err.Error(), WayOut: "let the service take them",
	}}}
}

var errMany = errors.New("more signals are pending than an instance can be given")

// peekSignals reads a queue of a stopped task.
func peekSignals(tid int, flags uint32, limit int) ([]siginfo, error) {
	type peek struct {
		off   uint64
		flags uint32
		nr    int32
	}
	var out []siginfo
	for {
		a := peek{uint64(len(out)), flags, 1}
		b := make(siginfo, siginfoSize)
		n, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(tid),
			uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&b[0])), 0, 0)
		switch {
		case e != 0:
			return nil, fmt.Errorf("thread %d: pending signals: %w", tid, e)
		case n == 0:
			return out, nil
		case len(out) == limit:
			return nil, errMany
		}
		out = append(out, b)
	}
}

// run lets the stopped leader, which is parked, make the calls of b and park again.
func (g *parkedGroup) run(b *batch) ([]byte, error) {
	th := &g.t.threads[0]
	if !g.arena.inStub(th.regs.Rip) {
		return nil, fmt.Errorf("the main thread of process %d is not parked", g.t.pid)
	}
	slot := g.arena.slot(th.state.Slot)
	head := make([]byte, ctxSize)
	stubContext{
		batch: b.at, n: len(b.entries), kind: kindThread, ctl: g.arena.ctl(g.side), frame: slot + slotFrame, limitS: g.limit,
	}.put(head)
	if err := writePieces(g.t.pid, piece{b.at, b.encode()}, piece{b.dataAt, b.data}, piece{slot, head}); err != nil {
		return nil, gone(g.t.pid, err)
	}
	r := th.regs
	r.Rip, r.R12, r.Orig_rax = uint64(g.arena), slot, ^uint64(0)
	if err := setRegs(th.tid, &r); err != nil {
		return nil, gone(g.t.pid, err)
	}
	th.redirected = true
	if err := ptrace(unix.PTRACE_CONT, th.tid, 0, 0); err != nil {
		return nil, gone(g.t.pid, err)
	}
	var h [ctxSize]byte
	deadline := time.Now().Add(adoptPatience)
	for look := newPatience(); binary.LittleEndian.Uint32(h[ctxParked:]) != 1; look.wait() {
		if err := readMem(g.t.pid, slot, h[:]); err != nil {
			return nil, gone(g.t.pid, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the main thread of process %d does not park: %w", g.t.pid, engine.ErrBusy)
		}
	}
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(g.t.pid, b.at, enc); err != nil {
		return nil, gone(g.t.pid, err)
	}
	if err := g.stopLeader(); err != nil {
		return nil, err
	}
	if left := binary.LittleEndian.Uint64(h[ctxFailed:]); left != 0 {
		return nil, b.failure(enc, int(left))
	}
	return enc, nil
}

// stopLeader stops the leader, which has parked again.
func (g *parkedGroup) stopLeader() error {
	th := &g.t.threads[0]
	if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
		return gone(g.t.pid, err)
	}
	th.awaited = false
	if err := g.t.awaitAll(); err != nil {
		return err
	}
	return nil
}

// queue makes the calls that give the process, or with own the calling thread alone, its pending signals.
func queue(b *batch, pending []siginfo, own bool) {
	if len(pending) == 0 {
		return
	}
	pid := b.call(unix.SYS_GETPID)
	var tid ref
	if own {
		tid = b.call(unix.SYS_GETTID)
	}
	for _, s := range pending {
		info := b.put(s, 8)
		if own {
			b.call(unix.SYS_RT_TGSIGQUEUEINFO, pid, tid, s.signal(), info)
		} else {
			b.call(unix.SYS_RT_SIGQUEUEINFO, pid, s.signal(), info)
		}
	}
}
