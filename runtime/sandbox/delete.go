package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// killTimeout is how long a killed container may take to die. It is long since a process in uninterruptible sleep,
// or one with much memory to free, is no error.
const killTimeout = 10 * time.Second

// Delete removes the container: its processes, cgroup and state directory. A running or paused one is ErrWrongState
// unless force is set. ErrMounted: something is mounted in the state directory, nothing was removed.
func (s *Sandbox) Delete(ctx context.Context, force bool) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if !force && (st == Creating || st == Running || st == Paused) {
		return fmt.Errorf("container %q: cannot delete it: %w: it is %s; kill it first or use --force", s.ID(), ErrWrongState, st)
	}
	if st == Creating {
		ctx, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		if err := s.awaitCreated(ctx); err != nil {
			return err
		}
		if st, err = s.Status(); err != nil {
			return err
		}
	}
	restoring := s.restoring()
	if !force && restoring {
		return fmt.Errorf("container %q: cannot delete it: %w: it is being restored; use --force", s.ID(), ErrWrongState)
	}
	state, err := s.container.State()
	if err != nil {
		return s.wrap("read state", err)
	}
	if st == Stopped && !restoring && state.InitProcessPid > 0 {
		return s.destroy() // which kills what is left where processes outlive pid 1
	}
	// Before anything is killed: a refusal must not leave half a container.
	if err := secureForRemoval(s.Dir()); err != nil {
		return s.wrap("delete", err)
	}
	if restoring {
		// Its state does not say which process is the first one, if there is one.
		if err := s.endRestore(); err != nil {
			return s.wrap("delete", err)
		}
	}
	// Also a stopped one without --force: there may be a first process that nobody noted down.
	if err := s.Kill(ctx); err != nil {
		return err
	}
	return s.destroy()
}

// Kill ends every process of the container, whatever its state, and waits until its pid 1 is gone, for ten seconds at most.
func (s *Sandbox) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	pid, err := s.InitPID()
	if err != nil {
		return err
	}
	pidfd := -1
	if pid != 0 {
		if pidfd, err = unix.PidfdOpen(pid, 0); err == nil {
			defer unix.Close(pidfd)
		} else if !errors.Is(err, unix.ESRCH) {
			return s.wrap("open pidfd of init", err)
		}
	}
	// In a stopped container without a pid namespace of its own there may still be processes in the cgroup.
	if err := s.container.Signal(unix.SIGKILL); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
		return s.wrap("kill", err)
	}
	if pidfd < 0 {
		if st, err := s.container.State(); err != nil || st.InitProcessPid > 0 {
			return s.wrap("read state", err)
		}
		return s.killOrphans(ctx)
	}
	if err := waitDead(ctx, pidfd); err != nil {
		return s.wrap(fmt.Sprintf("wait until init (pid %d) is dead", pid), err)
	}
	return nil
}

// waitDead waits until the process behind pidfd is dead, reaped or not. It polls in short steps, so that ctx is obeyed.
func waitDead(ctx context.Context, pidfd int) error {
	for {
		dead, err := isDead(pidfd, 50*time.Millisecond)
		if err != nil || dead {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// isDead waits at most that long for the process behind pidfd to die.
func isDead(pidfd int, wait time.Duration) (bool, error) {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("poll pidfd: %w", err)
	}
	return n > 0, nil
}

// destroy removes what a container without processes has: cgroup, state directory. It runs the poststop hooks, all of them:
// that one fails is no failure of the delete, which has been done.
func (s *Sandbox) destroy() error {
	if err := secureForRemoval(s.Dir()); err != nil {
		return s.wrap("delete", err)
	}
	// libcontainer stops at the first one that fails.
	config := s.container.Config()
	all := config.Hooks
	hooks := all[configs.Poststop]
	delete(all, configs.Poststop)
	if err := s.container.Destroy(); err != nil {
		return s.wrap("delete", err)
	}
	bundle, annotations := utils.Annotations(config.Labels)
	state := &specs.State{Version: specs.Version, ID: s.ID(), Status: specs.StateStopped, Bundle: bundle, Annotations: annotations}
	for i, h := range hooks {
		if err := h.Run(state); err != nil {
			logrus.WithError(err).Warnf("container %q: poststop hook %d failed", s.ID(), i)
		}
	}
	return nil
}

// RemoveLeftover removes the directory of a container whose creation was interrupted before it had a state. It
// reports whether there was one. Use it when Load says ErrNotExist.
func RemoveLeftover(root, id string) (bool, error) {
	dir, err := stateDir(root, id)
	if err != nil {
		return false, err
	}
	fi, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !fi.IsDir() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := secureForRemoval(dir); err != nil {
		return false, fmt.Errorf("container %q: %w", id, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return false, fmt.Errorf("container %q: %w", id, err)
	}
	return true, nil
}
