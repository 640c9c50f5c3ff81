package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrExited says that the container's program ended before it could be found.
var ErrExited = errors.New("the program has exited")

// servicePoll is how often ServicePID looks. From start to exec it takes well under a millisecond, hooks apart.
const servicePoll = time.Millisecond

// ServicePID is the host pid of the container's program: the reaper's child, or pid 1 where there is no reaper. It
// waits, until ctx is done, for the program to have been executed, so call it after Start. ErrExited.
func (s *Sandbox) ServicePID(ctx context.Context) (int, error) {
	initPID, err := s.InitPID()
	if err != nil {
		return 0, err
	}
	if initPID == 0 {
		return 0, s.wrap("find its program", ErrExited)
	}
	find := executedInit
	if s.HasReaper() {
		find = executedChild
	}
	pidfd, err := unix.PidfdOpen(initPID, 0)
	if err != nil {
		return 0, s.wrap("find its program", fmt.Errorf("%w: %w", ErrExited, err))
	}
	defer unix.Close(pidfd)
	tick := time.NewTicker(servicePoll)
	defer tick.Stop()
	for {
		dead, err := isDead(pidfd, 0)
		if err != nil {
			return 0, s.wrap("find its program", err)
		}
		if dead {
			return 0, s.wrap("find its program", fmt.Errorf("%w; its output may say why", ErrExited))
		}
		if pid := find(initPID); pid != 0 {
			return pid, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, s.wrap("wait until its program is executed", ctx.Err())
		}
	}
}

// executedInit is initPID once it has executed the program, else 0. Until then its environment is libcontainer's.
func executedInit(initPID int) int {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(initPID) + "/environ")
	if err != nil || strings.Contains(string(env), initVariable+"=") {
		return 0
	}
	return initPID
}

// executedChild is the reaper's first child once it has executed the program, else 0. The kernel lists children in
// the order of their birth, so the first is the reaper's own for as long as it lives.
func executedChild(initPID int) int {
	init := "/proc/" + strconv.Itoa(initPID)
	data, err := os.ReadFile(init + "/task/" + strconv.Itoa(initPID) + "/children")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	// Between fork and exec the child is still a reaper.
	exe, err := os.Readlink("/proc/" + first + "/exe")
	if err != nil || strings.HasPrefix(exe, "/memfd:"+reaperName) {
		return 0
	}
	return pid
}
