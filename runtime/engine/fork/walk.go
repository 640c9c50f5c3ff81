package fork

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// walk lets a thread that is in the middle of a transaction run on to the entry of its next waiting call. errThreadGone: it has
// ended on its way, and is not held any more.
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
	th.putOff = true
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
	return t.ended(th, t.await(th))
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
			th.held = false
			return false, t.ended(th, errThreadGone)
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
	return t.ended(th, t.await(th))
}

// ended is err, if that says that the thread has ended: which is the end of the process if the thread is its first.
func (t *tracee) ended(th *thread, err error) error {
	if !errors.Is(err, errThreadGone) {
		return err
	}
	if th.tid == t.pid {
		return gone(t.pid, unix.ESRCH)
	}
	if th.held {
		reap(th.tid)
		th.held = false
	}
	return err
}
