package fork

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// tracee stops and releases all threads of one process.
type tracee struct {
	pid     int
	tasks   *os.File // /proc/PID/task
	arena   arena    // 0 until the service has one
	options int      // of ptrace, beside PTRACE_O_TRACESYSGOOD
	whole   bool     // no thread is ever left asleep
	brief   bool     // that a thread was asleep and has not run since is enough for now
	others  int64    // ns of CPU time that threads had used that were seen asleep together; 0: not known
	timeFD  int      // tells the time of thread timeOf, unless that is 0
	timeOf  int
	threads []thread
	listed  int // how many threads the last list had
	links   int // how many more links tasks has than there are threads; 0: not known
	dirents [4096]byte
}

func newTracee(pid int) (*tracee, error) {
	if err := muteStops(); err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	return &tracee{pid: pid, tasks: f}, nil
}

func (t *tracee) close() error {
	for i := range t.threads {
		t.threads[i].unlook()
	}
	t.closeTime()
	return t.tasks.Close()
}

// gone translates the ways in which the kernel says that a process is dead.
func gone(pid int, err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECHILD) {
		return fmt.Errorf("process %d: %w", pid, engine.ErrGone)
	}
	return err
}

// stop stops all threads at a transaction boundary, or after limit gives engine.ErrBusy with every thread running
// again. With limit 0 they stop wherever they are. The caller is locked to its OS thread.
func (t *tracee) stop(limit time.Duration) error {
	for i := range t.threads {
		t.threads[i].place = placeOther
	}
	return t.stopOthers(limit)
}

// stopRunnable is stop for those threads that could run by themselves.
func (t *tracee) stopRunnable(limit time.Duration) error {
	t.spareSleepers()
	return t.stopOthers(limit)
}

// stopOthers is stop for those threads whose place is not known.
func (t *tracee) stopOthers(limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		err := t.stopAnywhere()
		if err == nil {
			err = t.toBoundary(limit, deadline)
		}
		still := false
		if err == nil {
			still, err = t.still() // a thread on its way may have woken or made another one
		}
		if err != nil {
			t.release()
			return err
		}
		if still {
			return nil
		}
	}
}

// toBoundary brings the stopped threads to a transaction boundary, or, with limit 0, prepares them to stay where they are.
func (t *tracee) toBoundary(limit time.Duration, deadline time.Time) error {
	defer t.dropDead()
	for i := range t.threads {
		th := &t.threads[i]
		if !th.held || th.walked {
			continue
		}
		if limit == 0 {
			th.broken = !t.atRest(th)
		} else {
			err := t.walk(th, deadline)
			if errors.Is(err, errThreadGone) {
				th.tid = 0
				continue
			}
			if err != nil {
				return err
			}
			th.broken = false
		}
		if !t.arena.inStub(th.regs.Rip) { // else it is as it was
			th.unsettled, th.waits = hasResult(&th.regs), waitOf(&th.regs)
		}
		th.walked = true
		t.noteWait(th)
		rewind(&th.regs)
	}
	return nil
}

// stopAnywhere seizes and interrupts the threads whose place is not known.
func (t *tracee) stopAnywhere() error {
	for i := range t.threads {
		th := &t.threads[i]
		if th.held || th.place != placeOther {
			continue
		}
		if err := t.seize(th); err != nil {
			// Those already interrupted have to be awaited before they can be released.
			return errors.Join(err, t.awaitAll())
		}
	}
	if err := t.awaitAll(); err != nil {
		return err
	}
	if len(t.threads) > 0 {
		return nil
	}
	more, err := t.list()
	if err != nil {
		return err
	}
	if !more {
		return fmt.Errorf("process %d: %w", t.pid, engine.ErrGone)
	}
	return t.stopAnywhere()
}

func (t *tracee) seize(th *thread) error {
	err := ptrace(unix.PTRACE_SEIZE, th.tid, 0, uintptr(unix.PTRACE_O_TRACESYSGOOD|t.options))
	if errors.Is(err, unix.ESRCH) {
		th.tid = 0
		return nil
	}
	if errors.Is(err, unix.EPERM) && isDead(t.pid) {
		return fmt.Errorf("process %d: %w", t.pid, engine.ErrGone)
	}
	if err != nil {
		return fmt.Errorf("thread %d of process %d: seize: %w", th.tid, t.pid, err)
	}
	th.held, th.awaited, th.walked, th.redirected, th.putOff = true, false, false, false, false
	if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("thread %d of process %d: interrupt: %w", th.tid, t.pid, err)
	}
	return nil
}

// goOn lets the stopped threads run without letting go of them.
func (t *tracee) goOn() error {
	for i := range t.threads {
		if th := &t.threads[i]; th.held {
			if err := ptrace(unix.PTRACE_CONT, th.tid, 0, 0); err != nil {
				return gone(t.pid, err)
			}
		}
	}
	return nil
}

// stopAgain stops what goOn let run, so that it can be released.
func (t *tracee) stopAgain() error {
	for i := range t.threads {
		th := &t.threads[i]
		if !th.held {
			continue
		}
		if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
			return gone(t.pid, err)
		}
		th.awaited = false
	}
	err := t.awaitAll()
	for i := range t.threads {
		if th := &t.threads[i]; th.held {
			th.redirected = true // the kernel repeats the stub's own call
		}
	}
	return err
}

// awaitAll waits for every seized thread to stop, also after an error: a thread that was interrupted and is never
// awaited could not be released.
func (t *tracee) awaitAll() error {
	var first error
	for i := range t.threads {
		// The leader, which is listed first, comes last: dead, it can be waited for only once the others have been.
		th := &t.threads[len(t.threads)-1-i]
		if th.tid == 0 || !th.held || th.awaited {
			continue
		}
		err := t.await(th)
		th.awaited = true
		switch {
		case !errors.Is(err, errThreadGone):
		case !th.held: // its end has been waited for
			th.tid, err = 0, nil
		case th.tid != t.pid:
			reap(th.tid)
			th.tid, err = 0, nil
		default: // release takes leave of the others first
			err = gone(t.pid, unix.ESRCH)
		}
		if err != nil && first == nil {
			first = err
		}
	}
	t.dropDead()
	return first
}

// await waits for the stop that PTRACE_INTERRUPT asked for and reads the thread's state. Signals that arrive
// first are delivered: their handlers run after the thread goes on. After errThreadGone, a thread that is still held has been
// killed and is to be reaped.
func (t *tracee) await(th *thread) error {
	for {
		ws, err := awaitStop(th.tid)
		if err != nil {
			switch {
			case errors.Is(err, unix.ECHILD):
				th.held = false
				return errThreadGone
			case errors.Is(err, unix.ESRCH):
				return errThreadGone
			}
			return fmt.Errorf("thread %d of process %d: wait: %w", th.tid, t.pid, err)
		}
		if !ws.Stopped() {
			th.held = false
			return errThreadGone
		}
		if int(ws)>>16 != unix.PTRACE_EVENT_STOP {
			sig := ws.StopSignal()
			if sig == unix.SIGTRAP|0x80 {
				sig = 0
			}
			if err := ptrace(unix.PTRACE_CONT, th.tid, 0, uintptr(sig)); err != nil {
				return gone(th.tid, err)
			}
			// Any trap clears a pending interrupt (ptrace_stop in kernel/signal.c): ask once more.
			if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
				return errThreadGone
			}
			continue
		}
		if err := getRegs(th.tid, &th.regs); err != nil {
			return errThreadGone
		}
		if err := getSigmask(th.tid, &th.mask); err != nil {
			return errThreadGone
		}
		th.inCall = int64(th.regs.Orig_rax) >= 0
		if !interrupted(&th.regs) {
			return nil
		}
		// A real signal that is due decides what becomes of the interrupted call: let it come first.
		due, err := pendingUnblocked(th.tid, th.mask)
		if err != nil {
			return fmt.Errorf("thread %d of process %d: peek signals: %w", th.tid, t.pid, err)
		}
		if !due {
			return nil
		}
		if err := ptrace(unix.PTRACE_CONT, th.tid, 0, 0); err != nil {
			return errThreadGone
		}
		if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
			return errThreadGone
		}
	}
}

// atRest reports whether the stopped thread is between transactions; for one that has not left the stub since it
// was activated, whether it was when it was parked.
func (t *tracee) atRest(th *thread) bool {
	if t.arena.inStub(th.regs.Rip) {
		return !th.broken
	}
	return atBoundary(&th.regs)
}

// awaitStop waits for the next event of an interrupted thread. It never blocks for good: if nothing comes, another
// trap may have cleared the interrupt (see await), and it is made once more.
func awaitStop(tid int) (unix.WaitStatus, error) {
	return awaitEvent(tid, func() {
		_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0) // ESRCH: it is dying, which the next look will tell
	})
}

// awaitEvent waits for the next event of exactly this task; never for any, which would steal others' events. It calls late
// every now and then. The error is ESRCH if the task is the leader of a process that has been killed: nobody can wait for
// it before its other threads have been waited for, which may be the caller's to do.
func awaitEvent(tid int, late func()) (unix.WaitStatus, error) {
	const patient = 20 * time.Millisecond
	var ws unix.WaitStatus
	var since time.Time
	dead := false
	for looks := 0; ; looks++ {
		n, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return ws, err
		case n == tid:
			return ws, nil
		case dead:
			return ws, fmt.Errorf("task %d: %w", tid, unix.ESRCH)
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if looks < 100 {
			continue
		}
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > patient {
			if dead = isDead(tid); !dead { // else there is one more look: it may have died since the last
				late()
			}
			since = time.Now()
			continue
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// resume lets stopped threads run on as if nothing had happened.
func (t *tracee) resume() {
	for i := range t.threads {
		if th := &t.threads[i]; th.held && th.timed.nr != 0 {
			th.regs.Eflags |= stillWaits
		}
	}
	t.release()
}

// release lets every held thread run on: as it was stopped, or in the stub if it has been redirected.
func (t *tracee) release() {
	for i := range t.threads {
		if th := &t.threads[len(t.threads)-1-i]; th.held && th.tid != 0 { // the leader last: see awaitAll
			if th.awaited && !th.redirected {
				if int64(th.regs.Rax) == -int64(unix.EINTR) {
					rewind(&th.regs) // the kernel restarts the others by itself, but not what ends in EINTR
				}
				_ = setRegs(th.tid, &th.regs)
			}
			// ESRCH, here and above: it dies. Nobody learns of that before its tracer has.
			if err := ptrace(unix.PTRACE_DETACH, th.tid, 0, 0); errors.Is(err, unix.ESRCH) && th.awaited {
				reap(th.tid)
			}
			th.held = false
		}
	}
	t.dropDead()
}

// reap waits for the death of a thread that has been killed. If that takes longer than it ever should, it is waited for
// beside: as long as the tracer of one thread has not, nobody learns of the death of its process.
func reap(tid int) {
	const usual = 100 * time.Millisecond
	for begun := time.Now(); time.Since(begun) < usual; time.Sleep(20 * time.Microsecond) {
		if reaped(tid) {
			return
		}
	}
	go func() {
		for !reaped(tid) {
			time.Sleep(time.Millisecond)
		}
	}()
}

func reaped(tid int) bool {
	var ws unix.WaitStatus
	n, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil)
	return err != nil && !errors.Is(err, unix.EINTR) || n == tid && !ws.Stopped()
}
