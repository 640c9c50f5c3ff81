package engine

import "golang.org/x/sys/unix"

// Exclusive is implemented by an Engine that runs one instance of a service at a time. Activating an instance makes
// the one that was active dormant, at whatever instruction its threads are: park it first to have it at a transaction
// boundary. All instances have the same PID.
type Exclusive interface {
	Engine
	// Exclusive does nothing but tell such engines apart.
	Exclusive()
}

// IsExclusive reports whether e runs one instance at a time.
func IsExclusive(e Engine) bool {
	_, ok := e.(Exclusive)
	return ok
}

// Signaller is implemented by a Service all of whose instances are one process.
type Signaller interface {
	// Signal sends sig to the process: the instance that is active gets it, or the one that is next. ErrGone: it has
	// died.
	Signal(sig unix.Signal) error
}

// Settler is implemented by an Instance of an Exclusive engine.
type Settler interface {
	// Settle returns when everything that /proc/PID shows is the instance's, which has to be active: a thread that
	// sleeps in the kernel may otherwise be a moment late.
	Settle() error
}
