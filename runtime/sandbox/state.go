package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"
)

// State is what `state` and `list` print; the JSON is runc's.
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"` // host pid of pid 1, 0 once it has died
	Status      Status            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"` // of the state directory
}

// State reads the container's present state.
func (s *Sandbox) State() (State, error) {
	status, err := s.Status()
	if err != nil {
		return State{}, err
	}
	st, err := s.container.State()
	if err != nil {
		return State{}, s.wrap("read state", err)
	}
	pid := st.InitProcessPid
	if status == Stopped || status == Creating {
		pid = 0
	}
	return State{
		Version:     st.Config.Version,
		ID:          st.ID,
		PID:         pid,
		Status:      status,
		Bundle:      s.Bundle(),
		Rootfs:      st.Config.Rootfs,
		Created:     st.Created,
		Annotations: s.Annotations(),
		Owner:       owner(s.Dir()),
	}, nil
}

// owner is the name of the user who owns dir, "#uid" if it has none.
func owner(dir string) string {
	fi, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}

// List returns the state of every container under root, sorted by id; none if root does not exist. Containers
// that cannot be loaded are left out and named in the error: the list is valid beside it.
func List(root string) ([]State, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var list []State
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		s, err := Load(root, e.Name())
		if err == nil {
			var st State
			if st, err = s.State(); err == nil {
				list = append(list, st)
			}
		}
		// A container that is being created or deleted at this moment is not there.
		if err != nil && !errors.Is(err, ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return list, errors.Join(errs...)
}
