package engine

import "time"

// Timed is implemented by an Instance that can tell when something that its threads wait for comes to its time.
type Timed interface {
	// Deadline is when a dormant instance would have to be activated for a timeout of a call or for a timer to take effect in
	// time; a time that has passed: now. False: nothing has a time, or it is not dormant. It reads files, and is not for the
	// transaction path. It may be called from any goroutine and at the same time as anything else.
	Deadline() (time.Time, bool)
}
