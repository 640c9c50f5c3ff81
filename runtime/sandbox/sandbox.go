// Package sandbox runs one OCI container by libcontainer: create, start, exec, signal, pause, delete.
//
// A sandbox is a directory <root>/<id> with libcontainer's state and a cgroup. It outlives the process that made
// it: any later process can Load it. Nothing here keeps state of its own beyond that directory.
//
// Programs that create sandboxes must call Init first thing in main.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotExist says that there is no container of that id under the root.
	ErrNotExist = errors.New("container does not exist")
	// ErrExist says that the id is taken.
	ErrExist = errors.New("container already exists")
	// ErrInvalidID says that an id cannot be used as a file name: it has to consist of letters, digits and "_+-.".
	ErrInvalidID = errors.New("invalid container id")
	// ErrWrongState says that the container's state does not allow the operation.
	ErrWrongState = errors.New("not possible in this state")
	// ErrInvalidBundle says that config.json is missing, malformed or contradicts the options.
	ErrInvalidBundle = errors.New("invalid bundle")
	// ErrDamaged says that a container's state cannot be read. See Salvage.
	ErrDamaged = errors.New("state.json is damaged")
	// ErrMounted says that something is mounted below a state directory, which is therefore not removed.
	ErrMounted = errors.New("something is mounted in the state directory")
)

// Status is the state of a container as the OCI runtime specification names it.
type Status string

// The statuses that a container can be in.
const (
	Creating Status = "creating" // another process is at it
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// reaperLabel marks, in libcontainer's own state, a container whose pid 1 is our reaper.
const reaperLabel = "dev.corsa.sandbox.reaper"

// Sandbox is one container. Its methods may be called from any goroutine.
type Sandbox struct {
	root      string
	container *libcontainer.Container
	init      *Process    // nil if another process created the container
	fresh     atomic.Bool // came from Create and has not been started
}

// Load finds the container id under root. ErrNotExist, ErrInvalidID, ErrDamaged.
func Load(root, id string) (*Sandbox, error) {
	c, err := loadContainer(root, id)
	switch {
	case errors.Is(err, libcontainer.ErrNotExist):
		return nil, fmt.Errorf("container %q under %s: %w", id, root, ErrNotExist)
	case errors.Is(err, libcontainer.ErrInvalidID):
		return nil, invalidID(id)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("container %q under %s: %w; `corsa delete --force` removes what is left", id, root, err)
	case err != nil:
		return nil, fmt.Errorf("container %q under %s: load state: %w", id, root, err)
	}
	return &Sandbox{root: root, container: c}, nil
}

// loadContainer is libcontainer.Load, which takes it for granted that it reads what it wrote.
func loadContainer(root, id string) (c *libcontainer.Container, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: members are missing", ErrDamaged)
		}
	}()
	if c, err = libcontainer.Load(root, id); isJSON(err) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c, err
}

// isJSON tells whether err is about what a JSON file contains.
func isJSON(err error) bool {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &syntax) || errors.As(err, &typ)
}

func invalidID(id string) error {
	return fmt.Errorf("%w %q: use letters, digits and _+-. only", ErrInvalidID, id)
}

// ID is the container's id.
func (s *Sandbox) ID() string { return s.container.ID() }

// Dir is the directory <root>/<id>. It exists until Delete, which removes everything in it.
func (s *Sandbox) Dir() string { return filepath.Join(s.root, s.ID()) }

// Bundle is the absolute path of the bundle that the container was created from.
func (s *Sandbox) Bundle() string {
	bundle, _ := utils.SearchLabels(s.container.Config().Labels, "bundle")
	return bundle
}

// Annotations are those of the bundle.
func (s *Sandbox) Annotations() map[string]string {
	_, annotations := utils.Annotations(s.container.Config().Labels)
	delete(annotations, reaperLabel)
	return annotations
}

// HasReaper tells whether the container was created with Options.Reaper.
func (s *Sandbox) HasReaper() bool {
	_, ok := utils.SearchLabels(s.container.Config().Labels, reaperLabel)
	return ok
}

// Init is the container's first process if this Sandbox came from Create, else nil.
func (s *Sandbox) Init() *Process { return s.init }

// Status reads the container's present state.
func (s *Sandbox) Status() (Status, error) {
	st, err := s.container.Status()
	if err != nil {
		return "", s.wrap("read state", err)
	}
	if st != libcontainer.Stopped && st != libcontainer.Created {
		return Status(st.String()), nil
	}
	state, err := s.container.State()
	if err != nil {
		return "", s.wrap("read state", err)
	}
	switch {
	case st == libcontainer.Created && hasExecuted(state.InitProcessPid):
		return Running, nil
	case st == libcontainer.Stopped && state.InitProcessPid <= 0 && s.init == nil:
		busy, err := beingCreated(s.Dir())
		if err != nil {
			return "", s.wrap("read state", err)
		}
		if busy {
			return Creating, nil
		}
	}
	return Status(st.String()), nil
}

// InitPID is the host pid of the container's pid 1, or 0 once it has died.
func (s *Sandbox) InitPID() (int, error) {
	st, err := s.Status()
	if err != nil || st == Stopped || st == Creating {
		return 0, err
	}
	state, err := s.container.State()
	if err != nil {
		return 0, s.wrap("read state", err)
	}
	return state.InitProcessPid, nil
}

// Start lets a created container execute its program. ErrWrongState if it is not in state created.
func (s *Sandbox) Start() error {
	// To ask for the state takes a while, and it is known here.
	if !s.fresh.Swap(false) {
		if err := s.require("start", Created); err != nil {
			return err
		}
	}
	if err := s.container.Exec(); err != nil {
		return s.wrap("start", err)
	}
	return nil
}

// Signal sends sig to the container's pid 1; a reaper forwards it to the service. SIGKILL ends every process of
// the container. ErrWrongState if it has stopped.
func (s *Sandbox) Signal(sig unix.Signal) error {
	err := s.container.Signal(sig)
	if errors.Is(err, libcontainer.ErrNotRunning) {
		return fmt.Errorf("container %q: signal %d: %w: it is stopped", s.ID(), int(sig), ErrWrongState)
	}
	return s.wrap("signal", err)
}

// Pause freezes every process of the container. Beware that it makes some blocking system calls fail with EINTR.
func (s *Sandbox) Pause() error {
	if err := s.require("pause", Running, Created); err != nil {
		return err
	}
	return s.wrap("pause", s.container.Pause())
}

// Resume undoes Pause.
func (s *Sandbox) Resume() error {
	if err := s.require("resume", Paused); err != nil {
		return err
	}
	return s.wrap("resume", s.container.Resume())
}

// Processes lists the host pids of all processes in the container's cgroup.
func (s *Sandbox) Processes() ([]int, error) {
	pids, err := s.container.Processes()
	return pids, s.wrap("list processes", err)
}

// require returns an error that names the present state unless it is one of want.
func (s *Sandbox) require(verb string, want ...Status) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	for _, w := range want {
		if st == w {
			return nil
		}
	}
	return fmt.Errorf("container %q: cannot %s it: %w: it is %s", s.ID(), verb, ErrWrongState, st)
}

func (s *Sandbox) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("container %q: %s: %w", s.ID(), what, err)
}

// writePIDFile replaces path in one step, so that a reader never sees half a number.
func writePIDFile(path string, pid int) error {
	// One that was killed here has left the file: its name is always the same, so that there is never more than one.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o666)
	if err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	_, err = fmt.Fprintf(f, "%d", pid)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("pid file: %w", errors.Join(err, os.Remove(tmp)))
	}
	return nil
}
