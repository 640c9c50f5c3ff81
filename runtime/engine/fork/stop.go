package fork

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// thread is one thread of a service. regs and mask are only valid while it is stopped.
type thread struct {
	tid        int // in the engine's pid namespace
	state      threadState
	regs       regs
	mask       uint64
	known      bool // state is filled in
	broken     bool // it was parked in the middle of a transaction
	described  bool // its capture batch has run
	held       bool // seized
	awaited    bool // and stopped
	walked     bool // and at a boundary
	inCall     bool // it was stopped in a system call
	redirected bool // its registers are the stub's
}

// threadState is what a new thread needs to become this one, beside its slot in the arena.
type threadState struct {
	TID    int        `json:"tid"` // in the service's pid namespace
	Slot   int        `json:"slot"`
	FSBase uint64     `json:"fs"`
	GSBase uint64     `json:"gs,omitempty"`
	CPUs   string     `json:"cpus,omitempty"` // hexadecimal affinity mask; empty: as the leader's
	Nice   int        `json:"nice,omitempty"`
	Slack  string     `json:"slack,omitempty"` // timer slack in nanoseconds
	Rseq   rseqConfig `json:"rseq"`
}

// tracee stops and releases all threads of one process.
type tracee struct {
	pid     int
	tasks   *os.File // /proc/PID/task
	arena   arena    // 0 until the service has one
	options int      // of ptrace, beside PTRACE_O_TRACESYSGOOD
	threads []thread
	dirents [4096]byte
}

func newTracee(pid int) (*tracee, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	return &tracee{pid: pid, tasks: f}, nil
}

func (t *tracee) close() error { return t.tasks.Close() }

// gone translates the ways in which the kernel says that a process is dead.
func gone(pid int, err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECHILD) {
		return fmt.Errorf("process %d: %w", pid, engine.ErrGone)
	}
	return err
}

// errThreadGone is internal: the thread exited between listing and stop.
var errThreadGone = errors.New("thread is gone")

// stop stops all threads at a transaction boundary, or after limit gives engine.ErrBusy with every thread running
// again. With limit 0 they stop wherever they are. The caller is locked to its OS thread.
func (t *tracee) stop(limit time.Duration) error {
	if err := t.stopAnywhere(); err != nil {
		t.release()
		return err
	}
	if limit == 0 {
		for i := range t.threads {
			th := &t.threads[i]
			th.broken = !t.atRest(th)
			rewind(&th.regs)
		}
		return nil
	}
	deadline := time.Now().Add(limit)
	for more := true; more; {
		for i := range t.threads {
			th := &t.threads[i]
			if th.walked {
				continue
			}
			if err := t.walk(th, deadline); err != nil {
				t.release()
				return err
			}
			th.broken, th.walked = false, true
			rewind(&th.regs)
		}
		// A thread on its way may have made another one.
		var err error
		if more, err = t.list(); err == nil && more {
			err = t.stopAnywhere()
		}
		if err != nil {
			t.release()
			return err
		}
	}
	return nil
}

// stopAnywhere seizes and interrupts threads until no new one turns up.
func (t *tracee) stopAnywhere() error {
	for {
		for i := range t.threads {
			th := &t.threads[i]
			if th.held {
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
		more, err := t.list()
		if err != nil {
			return err
		}
		if len(t.threads) == 0 {
			return fmt.Errorf("process %d: %w", t.pid, engine.ErrGone)
		}
		if !more {
			return nil
		}
	}
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
	th.held, th.awaited, th.walked, th.redirected = true, false, false, false
	if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("thread %d of process %d: interrupt: %w", th.tid, t.pid, err)
	}
	return nil
}

// goOn lets the stopped threads run without letting go of them.
func (t *tracee) goOn() error {
	for i := range t.threads {
		if err := ptrace(unix.PTRACE_CONT, t.threads[i].tid, 0, 0); err != nil {
			return gone(t.pid, err)
		}
	}
	return nil
}

// stopAgain stops what goOn let run, so that it can be released.
func (t *tracee) stopAgain() error {
	for i := range t.threads {
		th := &t.threads[i]
		if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
			return gone(t.pid, err)
		}
		th.awaited = false
	}
	err := t.awaitAll()
	for i := range t.threads {
		t.threads[i].redirected = true // the kernel repeats the stub's own call
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
		if errors.Is(err, errThreadGone) {
			th.tid = 0
		} else if err != nil && first == nil {
			first = err
		}
	}
	t.dropDead()
	return first
}

// await waits for the stop that PTRACE_INTERRUPT asked for and reads the thread's state. Signals that arrive
// first are delivered: their handlers run after the thread goes on.
func (t *tracee) await(th *thread) error {
	for {
		ws, err := awaitStop(th.tid)
		if err != nil {
			if errors.Is(err, unix.ECHILD) {
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
	const patient = 20 * time.Millisecond
	var ws unix.WaitStatus
	var since time.Time
	for looks := 0; ; looks++ {
		n, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return ws, err
		case n == tid:
			return ws, nil
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if looks < 100 {
			continue
		}
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > patient {
			// ESRCH: it is dying, which the next look will tell.
			_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0)
			since = time.Now()
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// walk lets a thread that is in the middle of a transaction run on to the entry of its next waiting call.
func (t *tracee) walk(th *thread, deadline time.Time) error {
	for !t.atRest(th) {
		if time.Now().After(deadline) {
			return fmt.Errorf("thread %d of process %d is not waiting: %w", th.tid, t.pid, engine.ErrBusy)
		}
		entered, err := t.nextCall(th, deadline)
		if err != nil {
			return err
		}
		if !entered || t.arena.inStub(th.regs.Rip) {
			continue
		}
		switch classify(&th.regs) & waitKindMask {
		case waitsOnly: // do not even begin it: it is made when the thread goes on
			return t.putOff(th)
		case waitsToTake: // begin it: if it has to block, the interrupt breaks it off
			if err := t.resumeInterrupted(th); err != nil {
				return err
			}
		}
	}
	return nil
}

// putOff skips the call at whose entry the thread is stopped and takes it back to just before it.
func (t *tracee) putOff(th *thread) error {
	th.regs.Rax = th.regs.Orig_rax
	th.regs.Rip -= 2
	th.regs.Orig_rax = ^uint64(0)
	if err := setRegs(th.tid, &th.regs); err != nil {
		return gone(t.pid, err)
	}
	for { // to the exit of the call that is not made
		if err := ptrace(unix.PTRACE_SYSCALL, th.tid, 0, 0); err != nil {
			return gone(t.pid, err)
		}
		ws, err := waitTask(th.tid)
		if err != nil || !ws.Stopped() {
			return gone(t.pid, unix.ESRCH)
		}
		if ws.StopSignal() == unix.SIGTRAP|0x80 {
			return nil
		}
		if int(ws)>>16 == 0 { // a signal before that: hand it back, it is taken when the thread goes on
			if err := unix.Tgkill(t.pid, th.tid, ws.StopSignal()); err != nil {
				return gone(t.pid, err)
			}
		}
	}
}

func (t *tracee) resumeInterrupted(th *thread) error {
	if err := ptrace(unix.PTRACE_CONT, th.tid, 0, 0); err != nil {
		return gone(t.pid, err)
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
		return gone(t.pid, err)
	}
	if err := t.await(th); err != nil {
		return gone(t.pid, unix.ESRCH)
	}
	return nil
}

// nextCall runs the thread to its next system call entry. false: a time slice passed without one.
func (t *tracee) nextCall(th *thread, deadline time.Time) (bool, error) {
	if err := ptrace(unix.PTRACE_SYSCALL, th.tid, 0, 0); err != nil {
		return false, gone(t.pid, err)
	}
	for {
		var ws unix.WaitStatus
		n, err := unix.Wait4(th.tid, &ws, unix.WALL|unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || (n == th.tid && !ws.Stopped()) {
			return false, gone(t.pid, unix.ESRCH)
		}
		if n == 0 {
			if time.Now().After(deadline) {
				return false, t.interruptRunning(th)
			}
			// It runs, maybe on this very CPU: let it. A sleep would last longer than what it has to do.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		if ws.StopSignal() != unix.SIGTRAP|0x80 {
			sig := ws.StopSignal()
			if int(ws)>>16 != 0 {
				sig = 0
			}
			if err := ptrace(unix.PTRACE_SYSCALL, th.tid, 0, uintptr(sig)); err != nil {
				return false, gone(t.pid, err)
			}
			continue
		}
		if err := getRegs(th.tid, &th.regs); err != nil {
			return false, gone(t.pid, err)
		}
		if int64(th.regs.Rax) == -int64(unix.ENOSYS) { // entry, not exit
			th.inCall = true
			return true, getSigmask(th.tid, &th.mask)
		}
		if err := ptrace(unix.PTRACE_SYSCALL, th.tid, 0, 0); err != nil {
			return false, gone(t.pid, err)
		}
	}
}

func (t *tracee) interruptRunning(th *thread) error {
	if err := ptrace(unix.PTRACE_INTERRUPT, th.tid, 0, 0); err != nil {
		return gone(t.pid, err)
	}
	if err := t.await(th); err != nil {
		return gone(t.pid, unix.ESRCH)
	}
	return nil
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

// reap waits for the death of a thread that is on its way out, for no longer than that ever takes.
func reap(tid int) {
	const most = 100 * time.Millisecond
	for begun := time.Now(); time.Since(begun) < most; time.Sleep(20 * time.Microsecond) {
		var ws unix.WaitStatus
		n, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG, nil)
		if err != nil && !errors.Is(err, unix.EINTR) || n == tid && !ws.Stopped() {
			return
		}
	}
}

func (t *tracee) dropDead() {
	live := t.threads[:0]
	for _, th := range t.threads {
		if th.tid != 0 {
			live = append(live, th)
		}
	}
	t.threads = live
}

// list adds threads that are not known yet and reports whether there were any.
func (t *tracee) list() (bool, error) {
	more := false
	if _, err := unix.Seek(int(t.tasks.Fd()), 0, unix.SEEK_SET); err != nil {
		return false, gone(t.pid, err)
	}
	for {
		n, err := unix.Getdents(int(t.tasks.Fd()), t.dirents[:])
		if err != nil {
			return false, gone(t.pid, err)
		}
		if n == 0 {
			return more, nil
		}
		for b := t.dirents[:n]; len(b) > 0; {
			reclen := int(b[16]) | int(b[17])<<8
			if tid := atoiz(b[19:reclen]); tid != 0 && !t.has(tid) {
				t.threads = append(t.threads, thread{tid: tid})
				more = true
			}
			b = b[reclen:]
		}
	}
}

func (t *tracee) has(tid int) bool {
	for i := range t.threads {
		if t.threads[i].tid == tid {
			return true
		}
	}
	return false
}

// atoiz parses a NUL-terminated decimal; 0 if it is none.
func atoiz(b []byte) int {
	n := 0
	for _, c := range b {
		if c == 0 {
			return n
		}
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
