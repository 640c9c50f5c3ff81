package engine

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrRefused is what every Refusal is.
	ErrRefused = errors.New("cannot be virtualised")
	// ErrGone says that the process behind an instance or image is dead.
	ErrGone = errors.New("process is gone")
	// ErrBusy says that an instance did not reach a transaction boundary in time.
	ErrBusy = errors.New("no transaction boundary reached")
)

// Blocker is one object that stands in the way of virtualising a process.
type Blocker struct {
	Object string `json:"object"` // e.g. `fd 17 (io_uring)`, `mapping 7f12a000-7f12b000 (/var/x.db)`, `child 1234 (nginx)`, `thread 17`
	Reason string `json:"reason"` // why it cannot be virtualised
	WayOut string `json:"wayOut"` // what the user can do about it
}

func (b Blocker) String() string {
	return fmt.Sprintf("%s cannot be virtualised: %s; way out: %s", b.Object, b.Reason, b.WayOut)
}

// Refusal is the error of an engine that will not virtualise a process. It lists all blockers, not just the first.
type Refusal struct {
	PID      int
	Blockers []Blocker
}

func (r *Refusal) Error() string {
	s := make([]string, len(r.Blockers))
	for i, b := range r.Blockers {
		s[i] = b.String()
	}
	return fmt.Sprintf("process %d: %s", r.PID, strings.Join(s, "\n"))
}

// Is makes errors.Is(err, ErrRefused) true.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }
