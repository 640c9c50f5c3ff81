package binder

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrDead says that the process that owns the object is gone, or, for the context manager, that there is none.
	ErrDead = errors.New("object is dead")
	// ErrFailed says that the driver could not deliver a transaction, e.g. because the receiver has no room for it or
	// does not accept file descriptors.
	ErrFailed = errors.New("transaction failed")
	// ErrFrozen says that the process that owns the object is frozen (see Conn.Freeze).
	ErrFrozen = errors.New("object's process is frozen")
	// ErrClosed says that the Conn is closed, or was closed meanwhile.
	ErrClosed = errors.New("binder connection is closed")
	// ErrMalformed says that a peer, or the driver, has sent what makes no sense.
	ErrMalformed = errors.New("malformed")
	// ErrManagerTaken says that the device has a context manager already. A device never has two.
	ErrManagerTaken = errors.New("device has a context manager")
	// ErrVersion says that the driver speaks another version of the protocol, e.g. that of 32-bit processes.
	ErrVersion = errors.New("unknown version of the binder protocol")
	// ErrNoThreads says that a Conn without looper threads was asked for what needs them.
	ErrNoThreads = errors.New("connection serves no transactions: open it with Options.Threads of at least 1")
)

// CallError is a transaction that was not answered. It is one of ErrDead, ErrFailed, ErrFrozen, or the context's error,
// and the errno of the driver where the kernel tells it (Linux 6.0 and newer).
type CallError struct {
	Handle uint32 // of the object that was called
	Code   uint32 // what it was asked for
	Err    error
	Errno  unix.Errno // 0: unknown
}

func (e *CallError) Error() string {
	object := fmt.Sprintf("object %d", e.Handle)
	if e.Handle == 0 {
		object = "context manager"
	}
	s := fmt.Sprintf("binder %s, %s: %v", object, codeName(e.Code), e.Err)
	if e.Errno != 0 && !errors.Is(e.Err, ErrDead) { // what the driver says of the dead is no help
		s += ": " + e.Errno.Error()
	}
	return s
}

// Unwrap returns what the error is and the driver's errno, if known.
func (e *CallError) Unwrap() []error {
	if e.Errno == 0 {
		return []error{e.Err}
	}
	return []error{e.Err, e.Errno}
}

// Status is an answer that is a number instead of a parcel: what Android calls a status_t. A Handler that returns a Status
// sends it; Transact returns the Status that was sent. The positive and zero values are no errors and not used.
type Status int32

// The statuses that libbinder gives names to, as far as an object needs them.
const (
	StatusUnknownError       Status = -1 << 31
	StatusBadType            Status = -1<<31 + 1 // the caller means another interface
	StatusFailedTransaction  Status = -1<<31 + 2
	StatusUnexpectedNull     Status = -1<<31 + 8
	StatusPermissionDenied   Status = -1
	StatusNameNotFound       Status = -2
	StatusNoMemory           Status = -12
	StatusAlreadyExists      Status = -17
	StatusBadValue           Status = -22
	StatusDeadObject         Status = -32
	StatusInvalidOperation   Status = -38
	StatusNotEnoughData      Status = -61
	StatusUnknownTransaction Status = -74
)

var statusNames = map[Status]string{
	StatusUnknownError: "unknown error", StatusBadType: "bad type", StatusFailedTransaction: "failed transaction",
	StatusUnexpectedNull: "unexpected null", StatusPermissionDenied: "permission denied", StatusNameNotFound: "name not found",
	StatusNoMemory: "no memory", StatusAlreadyExists: "already exists", StatusBadValue: "bad value",
	StatusDeadObject: "dead object", StatusInvalidOperation: "invalid operation", StatusNotEnoughData: "not enough data",
	StatusUnknownTransaction: "unknown transaction",
}

func (s Status) Error() string {
	if name, ok := statusNames[s]; ok {
		return fmt.Sprintf("status %d (%s)", int32(s), name)
	}
	return fmt.Sprintf("status %d", int32(s))
}

// statusOf chooses what the caller hears of a handler's error.
func statusOf(err error) Status {
	var s Status
	switch {
	case errors.As(err, &s) && s != 0:
		return s
	case errors.Is(err, ErrMalformed):
		return StatusBadValue
	case errors.Is(err, ErrDead):
		return StatusDeadObject
	}
	return StatusUnknownError
}
