package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A restore makes processes, cgroups and a state directory step by step. If it is killed meanwhile nobody else knows of
// them: the half-made processes wait for a CRIU that may be dead. So a guard, a process of its own in a session of its own,
// waits for its end and deletes what there is unless it was told that the container is complete.

// guardName is the name by which Init knows that it is to be a guard; the variable keeps others from being taken for it.
const (
	guardName     = "restore-guard"
	guardVariable = "_CORSA_RESTORE_GUARD"
)

// restoringFile exists in the state directory of a container until it has been restored. It holds the pid of who does that.
const restoringFile = "restoring"

// restoreGuard is the restoring process's end.
type restoreGuard struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// startGuard has a guard watch over the restore of container id, which is to begin. log is where CRIU's log will
// be, made the directory that was made for it, or "".
func startGuard(root, id, log, made string) (*restoreGuard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", guardName, root, id, log, made, strconv.Itoa(os.Getpid()))
	cmd.Args[0] = "corsa"
	cmd.Env = append(os.Environ(), guardVariable+"=1")
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("guard: %w", errors.Join(err, w.Close()))
	}
	return &restoreGuard{cmd, w}, nil
}

// release tells the guard that there is nothing to delete. It may not have got so far as to listen, and ends by itself.
func (g *restoreGuard) release() error {
	_, err := g.pipe.Write([]byte{1})
	if err = errors.Join(err, g.pipe.Close()); err != nil {
		err = fmt.Errorf("guard: %w", err)
	}
	go func() { _ = g.cmd.Wait() }() // so that no zombie is left where we go on
	return err
}

// beGuard is the guard's process.
func beGuard(root, id, log, made, pid string) {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if n, _ := os.Stdin.Read(make([]byte, 1)); n == 1 {
		os.Exit(0)
	}
	err := clearRestore(root, id, pid)
	removeTraces(log)
	if made != "" {
		_ = os.RemoveAll(made) // nobody will read the log
	}
	if err != nil {
		os.Exit(1) // nobody listens; `delete --force` tries again
	}
	os.Exit(0)
}

// clearRestore removes what process pid has made of container id.
func clearRestore(root, id, pid string) error {
	dir, err := stateDir(root, id)
	if err != nil {
		return err
	}
	owner, err := os.ReadFile(filepath.Join(dir, restoringFile))
	if errors.Is(err, fs.ErrNotExist) {
		// It has got to the end, or no further than to the directory, which is empty then.
		_ = os.Remove(dir)
		return nil
	}
	if err != nil {
		return err
	}
	if len(owner) > 0 && string(owner) != pid {
		return nil // somebody else's
	}
	s, err := Load(root, id)
	if errors.Is(err, ErrNotExist) {
		_, err := RemoveLeftover(root, id)
		return err
	}
	if err != nil {
		return err
	}
	return s.Delete(context.Background(), true)
}

// restoring tells whether the container has not been restored to the end.
func (s *Sandbox) restoring() bool {
	_, err := os.Stat(filepath.Join(s.Dir(), restoringFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// traces are names of directories in CRIU's log that it removes unless it is killed.
var traces = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(/tmp)?/?\.criu\.(mntns|cgyard)\.[A-Za-z0-9]{6}`)
})

// removeTraces removes the directories that a killed CRIU has left. They are empty: what was mounted there was in a mount
// namespace that is gone.
func removeTraces(log string) {
	text, err := os.ReadFile(log)
	if err != nil {
		return // it did not get that far
	}
	for _, name := range traces().FindAllString(string(text), -1) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(log), name)
		}
		_ = os.Remove(name) // it may have removed them itself
	}
}
