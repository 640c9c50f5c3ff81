package fork

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// process is a task of ours in the service's process tree: an anchor, a namespace init, or an instance's leader.
type process struct {
	identity
	pidfd int
}

// takeProcess takes hold of the process for which a has a pidfd of that number.
func takeProcess(a *anchor, number int) (process, error) {
	fd, err := unix.PidfdGetfd(a.pidfd, number, 0)
	if err != nil {
		return process{}, gone(a.PID, err)
	}
	p, err := openProcess(fd)
	if err != nil {
		unix.Close(fd)
	}
	return p, err
}

// openProcess takes ownership of pidfd.
func openProcess(pidfd int) (process, error) {
	b, err := readProc(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd), nil)
	if err != nil {
		return process{}, err
	}
	pid, err := strconv.Atoi(field(b, "Pid"))
	if err != nil || pid <= 0 {
		return process{}, fmt.Errorf("pidfd: %w", engine.ErrGone)
	}
	id, err := identify(pid)
	return process{id, pidfd}, err
}

// reopen finds a process again after a restart of the monitor.
func (id identity) reopen() (process, error) {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return process{}, gone(id.PID, err)
	}
	if err := id.verify(); err != nil {
		unix.Close(fd)
		return process{}, err
	}
	p := process{id, fd}
	if !p.alive() {
		unix.Close(fd)
		return process{}, fmt.Errorf("process %d: %w", id.PID, engine.ErrGone)
	}
	return p, nil
}

func (p process) alive() bool {
	f := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for {
		// The runtime preempts threads by signals, and poll gives EINTR for one that is pending even if it need not wait.
		n, err := unix.Poll(f, 0)
		if !errors.Is(err, unix.EINTR) {
			return n == 0 && err == nil
		}
	}
}

// end kills the process and waits until it is gone. It is reaped if it is a child of ours; else its parent does that.
func (p process) end() error {
	if err := p.kill(); err != nil {
		return err
	}
	return p.awaitEnd()
}

// endAll is end for all of them at once.
func endAll(list ...process) error {
	var errs []error
	for _, p := range list {
		errs = append(errs, p.kill())
	}
	for i, p := range list {
		if errs[i] == nil {
			errs = append(errs, p.awaitEnd())
		}
	}
	return errors.Join(errs...)
}

// exists reports whether there ever was such a process.
func (p process) exists() bool { return p.pidfd > 0 && p.PID != 0 }

func (p process) kill() error {
	if !p.exists() {
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

func (p process) awaitEnd() error {
	if !p.exists() {
		return nil
	}
	f := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	deadline := time.Now().Add(10 * time.Second)
	for {
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
