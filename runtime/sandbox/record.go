package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

// recordName is the file in a state directory that tells how the container was created: libcontainer's state before there
// was a process. It is state.json until libcontainer writes that, when the first process is nearly ready, so that whoever
// kills us before leaves a container that can be deleted, its cgroup included. Whoever creates it holds it locked.
const (
	recordName = "created.json"
	stateName  = "state.json"
	fifoName   = "exec.fifo" // libcontainer's; there until start
)

// record writes the record. The caller closes it when the container has been created.
func (s *Sandbox) record() (*os.File, error) {
	st, err := s.container.State()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir(), recordName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err == nil {
		err = utils.WriteJSON(f, st)
	}
	if err == nil {
		err = os.Link(path, filepath.Join(s.Dir(), stateName))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record of the container: %w", err), f.Close())
	}
	return f, nil
}

// beingCreated tells whether a living process is creating the container in dir.
func beingCreated(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, recordName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // it was created by another runtime, or is being deleted
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// awaitCreated waits until nobody creates the container any more.
func (s *Sandbox) awaitCreated(ctx context.Context) error {
	for {
		busy, err := beingCreated(s.Dir())
		if err != nil {
			return s.wrap("read state", err)
		}
		if !busy {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return s.wrap("wait until another command has created it; end that first", ctx.Err())
		}
	}
	created, err := Load(s.root, s.ID())
	if err != nil {
		return err
	}
	s.container = created.container
	return nil
}

// Salvage makes a container whose state.json cannot be read deletable: what is known from its creation takes its place, and
// what its cgroup holds is killed. It reports whether that was needed, and possible.
func Salvage(ctx context.Context, root, id string) (bool, error) {
	dir, err := stateDir(root, id)
	if err != nil {
		return false, err
	}
	state := filepath.Join(dir, stateName)
	if _, err := os.Stat(state); err != nil {
		return false, nil //nolint:nilerr // nothing is damaged: there is none
	}
	if _, err := Load(root, id); err == nil {
		return false, nil
	}
	tmp := state + ".salvaged"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	err = os.Link(filepath.Join(dir, recordName), tmp)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = os.Rename(tmp, state)
	}
	if err != nil {
		return false, err
	}
	s, err := Load(root, id)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return true, s.clearCgroup(ctx)
}

// killOrphans ends the first process of a container whose creator was killed before it could note the process down. Most of
// them end by themselves, but not while one of the container's hooks runs. It is known by the fifo on which it is to wait.
func (s *Sandbox) killOrphans(ctx context.Context) error {
	fifo := filepath.Join(s.Dir(), fifoName)
	if real, err := filepath.EvalSymlinks(s.Dir()); err == nil {
		fifo = filepath.Join(real, fifoName)
	}
	for {
		pids, err := holders(fifo)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return s.wrap(fmt.Sprintf("kill process %d", pid), err)
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return s.wrap(fmt.Sprintf("wait until processes %v are dead", pids), ctx.Err())
		}
	}
}

// holders are the processes that have the file path open.
func holders(path string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fds, err := os.ReadDir("/proc/" + e.Name() + "/fd")
		if err != nil {
			continue // it has ended, or is another user's
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/" + e.Name() + "/fd/" + fd.Name()); err == nil && to == path && pid != os.Getpid() {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// stateDir is where the state of container id is, whether it exists or not.
func stateDir(root, id string) (string, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsRune(id, '/') {
		return "", invalidID(id)
	}
	return filepath.Join(root, id), nil
}

// hasExecuted tells whether a first process that looks as if it waited for start does not do so: whoever started it was
// killed before he could note it down.
func hasExecuted(initPID int) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(initPID) + "/environ")
	return err == nil && len(env) > 0 && !strings.Contains(string(env), initVariable)
}

// clearCgroup ends what is left in the container's cgroup, frozen or not, and waits for it.
func (s *Sandbox) clearCgroup(ctx context.Context) error {
	for {
		pids, err := s.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return s.wrap(fmt.Sprintf("kill process %d", pid), err)
			}
		}
		if err := s.thaw(); err != nil {
			return s.wrap("thaw", err)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return s.wrap(fmt.Sprintf("wait until processes %v are dead", pids), ctx.Err())
		}
	}
}

// thaw lets every process of the container's cgroup, and of those below it, run.
func (s *Sandbox) thaw() error {
	st, err := s.container.State()
	if err != nil {
		return err
	}
	top, file, value := st.CgroupPaths["freezer"], "freezer.state", "THAWED"
	if top == "" {
		if top, file, value = st.CgroupPaths[""], "cgroup.freeze", "0"; top == "" {
			return nil
		}
	}
	return filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // it has gone meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		err = os.WriteFile(filepath.Join(path, file), []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}
