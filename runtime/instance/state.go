package instance

import (
	"errors"
	"fmt"
	"slices"
)

// State is where an app's instance is in its life. An instance that is gone stays gone; the app goes on with a
// new one, of the next generation.
type State string

// The states.
const (
	Empty       State = "empty"       // the app is known and has never had an instance
	Dormant     State = "dormant"     // parked: kept, but no thread of it can run
	Active      State = "active"      // it runs
	Speculative State = "speculative" // it runs, and what it does may be taken back
	Quarantined State = "quarantined" // it crashed again and again; nothing runs until it is restored by hand
	Gone        State = "gone"        // its process has ended
	Evicted     State = "evicted"     // it was ended to make room, in the state of the checkpoint that is the head
)

// moves are the legal transitions. From gone, evicted and quarantined, dormant is reached by a new generation only.
var moves = map[State][]State{
	Empty:       {Dormant},
	Dormant:     {Active, Speculative, Quarantined, Gone, Evicted},
	Active:      {Dormant, Speculative, Quarantined, Gone, Evicted},
	Speculative: {Dormant, Active, Quarantined, Gone, Evicted},
	Quarantined: {Dormant, Gone},
	Gone:        {Dormant, Quarantined},
	Evicted:     {Dormant, Gone},
}

// ErrTransition is what every TransitionError is.
var ErrTransition = errors.New("illegal transition")

// TransitionError is an illegal move of an app's instance.
type TransitionError struct {
	App      App
	From, To State
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("app %s: its instance is %s and cannot become %s", e.App, e.From, e.To)
}

// Is makes errors.Is(err, ErrTransition) true.
func (e *TransitionError) Is(target error) bool { return target == ErrTransition }

// Can tells whether an instance may go from s to another state. Staying is always allowed.
func (s State) Can(to State) bool { return s == to || slices.Contains(moves[s], to) }

// Live tells whether there is a process behind the instance.
func (s State) Live() bool { return s == Dormant || s == Active || s == Speculative }
