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

// Signaller is implemented by an Instance whose PIDFD is not that of a process.
type Signaller interface {
	// Signal sends sig to the instance; a dormant one gets it when it is activated. ErrGone: it has died.
	Signal(sig unix.Signal) error
}
