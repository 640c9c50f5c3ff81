package integration

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killAfter starts args and kills it after d, with its process group if group is set. It returns how long it ran.
func killAfter(t *testing.T, args []string, d time.Duration, group bool) time.Duration {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is not of interest
	}()
	select {
	case <-ended:
	case <-time.After(d):
		kill(t, cmd.Process.Pid, group)
		<-ended
	}
	return time.Since(start)
}

func kill(t *testing.T, pid int, group bool) {
	t.Helper()
	if group {
		pid = -pid
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
}

// killAtCall starts args and kills it when its threads, not its children, have entered or left the n-th system call. It
// returns how many there were.
func killAtCall(t *testing.T, args []string, n int, group bool) int {
	t.Helper()
	type result struct {
		calls int
		err   error
	}
	done := make(chan result)
	go func() {
		// Tracees belong to the thread that started them. It ends with this goroutine, since it is never unlocked.
		runtime.LockOSThread()
		calls, err := traceUntil(args, n, func(pid int) { kill(t, pid, group) })
		done <- result{calls, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("trace %v: %v", args, r.err)
	}
	return r.calls
}

func traceUntil(args []string, n int, kill func(pid int)) (calls int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return 0, err
	}
	known := map[int]bool{}
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return calls, err
		}
		if ws.Exited() || ws.Signaled() {
			if tid == pid {
				return calls, nil
			}
			continue
		}
		deliver := 0
		switch sig := ws.StopSignal(); {
		case !known[tid]: // the stop with which a tracee begins
			known[tid] = true
			if tid == pid {
				err = unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL)
			}
		case sig == unix.SIGTRAP|0x80:
			if calls++; calls == n {
				kill(pid)
			}
		case sig != unix.SIGTRAP: // else a thread was born
			deliver = int(sig)
		}
		if err == nil {
			err = unix.PtraceSyscall(tid, deliver)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has been killed
			return calls, err
		}
	}
}
