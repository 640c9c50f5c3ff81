package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// parkScratch is what parking needs besides the instance. It is pooled because there are many more instances than
// parkings under way.
type parkScratch struct {
	slots  []byte
	local  []unix.Iovec
	remote []unix.RemoteIovec
	words  []uint32
}

var parkPool = sync.Pool{New: func() any { return new(parkScratch) }}

func (p *parkScratch) grow(n int) {
	if len(p.slots) < n*slotSize {
		p.slots = make([]byte, n*slotSize)
		p.local = make([]unix.Iovec, 2*n)
		p.remote = make([]unix.RemoteIovec, 2*n)
	}
}

func (p *parkScratch) growWords(n int) {
	if len(p.words) < n {
		p.words = make([]uint32, n)
	}
	if len(p.remote) < n {
		p.remote = make([]unix.RemoteIovec, 2*n)
		p.local = make([]unix.Iovec, 2*n)
	}
}

// parker puts the stopped threads of one process into the stub.
type parker struct {
	t       *tracee
	arena   arena
	side    int
	used    []bool // slots
	limit   int64  // seconds, for provisional parking
	seccomp bool   // the service has a filter, which is suspended while a thread describes itself
	batch   map[int][]byte
}

// park gives every stopped thread a frame of where it is, sends it into the stub and releases it. The run word has
// been set before. A thread that is still in the stub from an earlier parking, woken but never run since, keeps
// its frame: that is where it really is, not its registers.
func (p *parker) park() error {
	if err := p.know(); err != nil {
		return err
	}
	n := len(p.t.threads)
	sc := parkPool.Get().(*parkScratch)
	defer parkPool.Put(sc)
	sc.grow(n)
	pieces := 0
	piece := func(b []byte, at uint64) {
		sc.local[pieces] = unix.Iovec{Base: &b[0], Len: uint64(len(b))}
		sc.remote[pieces] = unix.RemoteIovec{Base: uintptr(at), Len: len(b)}
		pieces++
	}
	for i := range p.t.threads {
		th := &p.t.threads[i]
		if !th.held {
			continue
		}
		slot := p.arena.slot(th.state.Slot)
		b := sc.slots[i*slotSize : (i+1)*slotSize]
		piece(b[:p.head(th, b)], slot)
		if p.arena.inStub(th.regs.Rip) {
			continue
		}
		size, err := p.frame(th, b)
		if err != nil {
			return err
		}
		piece(b[slotFrame:size], slot+slotFrame)
	}
	for done := 0; done < pieces; {
		m := min(pieces-done, 1000) // IOV_MAX is 1024
		_, _, e := unix.RawSyscall6(unix.SYS_PROCESS_VM_WRITEV, uintptr(p.t.pid),
			uintptr(unsafe.Pointer(&sc.local[done])), uintptr(m), uintptr(unsafe.Pointer(&sc.remote[done])), uintptr(m), 0)
		if e != 0 {
			return fmt.Errorf("process %d: write frames: %w", p.t.pid, gone(p.t.pid, e))
		}
		done += m
	}
	return p.redirect()
}

// head fills the beginning of b with the thread's context and what it does before it waits, and returns how much.
func (p *parker) head(th *thread, b []byte) int {
	slot := p.arena.slot(th.state.Slot)
	enc := p.captureCode(th.state.Slot, th.tid == p.t.pid)
	if p.seccomp && th.described {
		enc = nil // once: it takes ptrace, and these things hardly ever change
	}
	stubContext{
		batch: slot + slotBatch, n: len(enc) / entrySize, kind: kindThread, ctl: p.arena.ctl(p.side),
		frame: slot + slotFrame, limitS: p.limit,
	}.put(b)
	clear(b[slotNotes:slotNotesEnd])
	return slotBatch + copy(b[slotBatch:], enc)
}

// frame fills b from slotFrame on with the signal frame and returns where it ends.
func (p *parker) frame(th *thread, b []byte) (int, error) {
	r := th.regs
	if th.timed.nr != 0 {
		r.Eflags |= stillWaits
	}
	putUcontext(b[slotFrame:], &r, th.mask, p.arena.slot(th.state.Slot)+slotXstate)
	n, err := getXstate(th.tid, b[slotXstate:])
	if err != nil {
		return 0, fmt.Errorf("thread %d: extended state: %w", th.tid, gone(th.tid, err))
	}
	th.tiles = usesTiles(b[slotXstate:])
	th.state.FSBase, th.state.GSBase = th.regs.Fs_base, th.regs.Gs_base
	return slotXstate + toFrame(b[slotXstate:], n), nil
}

// captureCode is the encoded capture batch of a slot; it never changes.
func (p *parker) captureCode(slot int, leader bool) []byte {
	if b, ok := p.batch[slot]; ok {
		return b
	}
	if p.batch == nil {
		p.batch = map[int][]byte{}
	}
	b := captureBatch(p.arena.slot(slot), leader).encode()
	p.batch[slot] = b
	return b
}

// redirect is the point of no return: from here on a thread that is let go runs the stub.
func (p *parker) redirect() error {
	blocked := ^uint64(0)
	for i := range p.t.threads {
		th := &p.t.threads[i]
		if !th.held {
			continue
		}
		r := th.regs
		r.Rip, r.R12, r.Orig_rax = uint64(p.arena), p.arena.slot(th.state.Slot), ^uint64(0)
		const trap, direction = 0x100, 0x400
		r.Eflags &^= trap | direction
		// Registers before mask: if the engine dies in between, the frame restores the mask.
		if err := setRegs(th.tid, &r); err != nil {
			return gone(p.t.pid, err)
		}
		th.redirected, th.place, th.sleeps = true, placeStub, false
		if err := setSigmask(th.tid, &blocked); err != nil {
			return gone(p.t.pid, err)
		}
	}
	if p.seccomp && p.undescribed() {
		if err := errors.Join(p.t.goOn(), p.awaitParked(time.Now().Add(adoptPatience)), p.t.stopAgain()); err != nil {
			return err
		}
		for i := range p.t.threads {
			if th := &p.t.threads[i]; th.held {
				th.described = true
			}
		}
	}
	p.t.release()
	return nil
}

func (p *parker) undescribed() bool {
	for i := range p.t.threads {
		if th := &p.t.threads[i]; th.held && !th.described {
			return true
		}
	}
	return false
}

// know gives slots to stopped threads that are new and drops those of threads that are gone.
func (p *parker) know() error {
	clear(p.used)
	for i := range p.t.threads {
		th := &p.t.threads[i]
		if th.held {
			if err := p.recognise(th); err != nil {
				return err
			}
		}
		if th.known {
			p.used[th.state.Slot] = true
		}
	}
	free := 0
	for i := range p.t.threads {
		th := &p.t.threads[i]
		if !th.held {
			continue
		}
		if !th.known {
			for free < len(p.used) && p.used[free] {
				free++
			}
			if free == len(p.used) {
				return fmt.Errorf("process %d has more than %d threads: %w", p.t.pid, maxThreads, engine.ErrRefused)
			}
			p.used[free] = true
			if err := p.describe(th, free); err != nil {
				return err
			}
		}
		if err := p.abortRseq(th); err != nil {
			return err
		}
	}
	return nil
}

// recognise finds the slot of a thread that another engine has parked, and that was not there yet when that one described the
// instance: its frame is in this slot and nowhere else, as long as it has not left the stub.
func (p *parker) recognise(th *thread) error {
	if th.known || !p.arena.inStub(th.regs.Rip) {
		return nil
	}
	slot, ok := p.arena.slotAt(th.regs.R12)
	if !ok {
		return fmt.Errorf("thread %d of process %d is in the stub without a slot", th.tid, p.t.pid)
	}
	return p.describe(th, slot)
}

// describe fills in the state of a thread that is to have this slot.
func (p *parker) describe(th *thread, slot int) error {
	inner, err := innerTID(p.t.pid, th.tid)
	if err != nil {
		return err
	}
	th.state = threadState{TID: inner, Slot: slot, FSBase: th.regs.Fs_base, GSBase: th.regs.Gs_base}
	th.known = true
	if err := getRseq(th.tid, &th.state.Rseq); err != nil {
		return fmt.Errorf("thread %d: rseq: %w", th.tid, err)
	}
	return nil
}

// abortRseq does what the kernel does to a thread that is preempted in a restartable sequence: it goes on at the
// abort handler. Without it the thread would go on in the middle, on another CPU, unnoticed by the kernel.
func (p *parker) abortRseq(th *thread) error {
	if th.state.Rseq.Ptr == 0 || th.inCall || p.arena.inStub(th.regs.Rip) {
		return nil
	}
	var b [32]byte
	if err := readMem(p.t.pid, th.state.Rseq.Ptr+8, b[:8]); err != nil {
		return err
	}
	cs := binary.LittleEndian.Uint64(b[:])
	if cs == 0 {
		return nil
	}
	if err := readMem(p.t.pid, cs, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	start, length, abort := le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	if th.regs.Rip-start < length {
		th.regs.Rip = abort
	}
	return writeMem(p.t.pid, th.state.Rseq.Ptr+8, make([]byte, 8))
}

// awaitParked waits until every thread that was sent into the stub has run its capture batch, so that its slot can be copied.
func (p *parker) awaitParked(deadline time.Time) error {
	var b [slotNotesEnd]byte
	for i := range p.t.threads {
		th := &p.t.threads[i]
		if th.place != placeStub {
			continue
		}
		for look := newPatience(); ; look.wait() {
			if err := readMem(p.t.pid, p.arena.slot(th.state.Slot), b[:]); err != nil {
				return gone(p.t.pid, err)
			}
			if left := binary.LittleEndian.Uint64(b[ctxFailed:]); left != 0 {
				return fmt.Errorf("thread %d cannot describe itself (%d calls left): %w", th.tid, left, engine.ErrRefused)
			}
			if binary.LittleEndian.Uint32(b[ctxParked:]) == 1 {
				th.noted = noted(b[:])
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("thread %d does not park: %w", th.tid, engine.ErrBusy)
			}
		}
	}
	return nil
}

// patience paces looks at what is about to happen: for a while without a break, then with short ones.
type patience struct{ until time.Time }

func newPatience() patience { return patience{time.Now().Add(spins)} }

func (p patience) wait() {
	if time.Now().Before(p.until) {
		pause()
		return
	}
	// Not time.Sleep: the runtime's timers may take a millisecond for any sleep.
	ts := unix.NsecToTimespec(int64(20 * time.Microsecond))
	_ = unix.Nanosleep(&ts, nil) // a shorter one is as good
}
