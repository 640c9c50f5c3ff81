package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// process is the service's.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, which tells it from a later one of the same pid
	pidfd int
}

// openProcess opens the process that has the pid now.
func openProcess(pid int) (process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}, gone(pid, err)
	}
	f, err := statFields(pid)
	if err != nil {
		unix.Close(fd)
		return process{}, err
	}
	const startTime = 22 - 3
	start, err := strconv.ParseUint(f[startTime], 10, 64)
	if err != nil {
		unix.Close(fd)
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	p := process{pid, start, fd}
	if !p.alive() {
		p.close()
		return process{}, fmt.Errorf("process %d: %w", pid, engine.ErrGone)
	}
	return p, nil
}

// reopen finds the process again after a restart of the engine.
func (p process) reopen() (process, error) {
	now, err := openProcess(p.PID)
	if err != nil {
		return process{}, err
	}
	if now.Start != p.Start {
		now.close()
		return process{}, fmt.Errorf("process %d: %w", p.PID, engine.ErrGone)
	}
	return now, nil
}

func (p process) alive() bool {
	f := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(f, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 0
		}
	}
}

// end kills the process and waits until it is gone. It is reaped if it is a child of ours; else its parent does that.
func (p process) end() error {
	if err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	f := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := unix.Poll(f, 1000)
		if n > 0 {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end after SIGKILL", p.PID)
		}
	}
	for {
		_, err := unix.Wait4(p.PID, nil, unix.WALL|unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return nil // ECHILD: not our child
		}
	}
}

func (p *process) close() {
	if p.pidfd > 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// exit reads how the process ended; it has to be a zombie still.
func (p process) exit() engine.Exit {
	f, err := statFields(p.PID)
	if err != nil {
		return engine.Exit{Code: -1} // reaped: how it ended is lost
	}
	const exitCode = 52 - 3
	code, err := strconv.Atoi(f[exitCode])
	if err != nil {
		return engine.Exit{Code: -1}
	}
	if ws := unix.WaitStatus(code); ws.Signaled() {
		return engine.Exit{Code: -1, Signal: int(ws.Signal())}
	}
	return engine.Exit{Code: unix.WaitStatus(code).ExitStatus()}
}

// statFields returns the fields of /proc/PID/stat from the third, the state, on.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	// The second field is a name in parentheses that may hold anything, parentheses too.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 50 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(f))
	}
	return f, nil
}

// gone turns the errors of a process that has ended into engine.ErrGone.
func gone(pid int, err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("process %d: %w", pid, engine.ErrGone)
	}
	return err
}
