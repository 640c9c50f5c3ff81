package engine

import (
	"context"
	"errors"
	"time"
)

// ErrNotGated says that a call of a BinderService was made on a service whose Target has no Binder.
var ErrNotGated = errors.New("the service is not behind a Binder gate")

// BinderKey says what names an app that calls through Binder. Keys are numbers that the kernel has.
type BinderKey string

// The kinds of keys.
const (
	BinderUID    BinderKey = "uid"    // effective uid, in the initial user namespace
	BinderPID    BinderKey = "pid"    // process, in the initial pid namespace
	BinderCgroup BinderKey = "cgroup" // id in the cgroup v2 hierarchy, which is the inode of its directory
)

// BinderTarget is what a Target says of a service that apps call through Binder.
type BinderTarget struct {
	Key BinderKey
	// Wait is the longest that a transaction is held before it fails. 0: the engine's default.
	Wait time.Duration
}

// BinderEngine is implemented by an Engine that can stand between a service and its Binder callers: it holds each
// transaction until the instance that it is for is active, and lets one instance at a time have transactions.
type BinderEngine interface {
	Engine
	// BinderAvailable says in its error why that cannot be done on this host, and the way out.
	BinderAvailable() error
}

// BinderService is implemented by a Service of a BinderEngine. If its Target has Binder, the engine activates instances by
// itself as transactions arrive; Instance.Activate and Instance.Park are not to be used. A checkpoint is taken of an
// instance in whatever state it is, between two transactions, and so is a Rewind.
type BinderService interface {
	Service
	// Route sends the transactions of key to in from now on; nil: nowhere, and those that wait fail. every is the
	// number of transactions after which there is a BinderDue, and then further ones wait until the next Route; 0: never.
	Route(key uint64, in Instance, every int) error
	// Routes lists the keys that there have ever been a transaction or Route of, in no order.
	Routes() ([]BinderRoute, error)
	// BinderStats are counters since the adoption.
	BinderStats() (BinderStats, error)
	// BinderEvents waits for events and returns them in their order; the error of ctx if that is done, ErrGone if the
	// service has ended. It is for one goroutine. Events that an earlier monitor has not handled may be lost: Routes says
	// what is waited for.
	BinderEvents(ctx context.Context) ([]BinderEvent, error)
	// Rewind makes in, which may have crashed, into what img is. It remains the same instance to those who hold references
	// to its objects, as far as these exist in img. After an error in is as before, but may have crashed.
	Rewind(ctx context.Context, in Instance, img Image) error
}

// BinderRoute is where the transactions of an app go.
type BinderRoute struct {
	Key          uint64
	Routed       bool // it has an instance, which may have crashed
	Wanted       bool // a transaction waits for a Route
	Due          bool // further transactions wait, as BinderDue says
	Transactions uint64
	Oneway       uint64 // of them
}

// BinderStats are counters of all apps together.
type BinderStats struct {
	InProgress   int           `json:"inProgress"` // now
	Waiting      int           `json:"waiting"`    // now
	Transactions uint64        `json:"transactions"`
	Oneway       uint64        `json:"oneway"` // of them
	Nested       uint64        `json:"nested"` // calls back into the service, not counted above
	Outgoing     uint64        `json:"outgoing"`
	Waits        uint64        `json:"waits"`       // transactions that did not go on at once
	Switches     uint64        `json:"switches"`    // of instances
	Timeouts     uint64        `json:"timeouts"`    // transactions that failed for that
	Interrupted  uint64        `json:"interrupted"` // their callers were killed
	Aborted      uint64        `json:"aborted"`     // ended by a crash
	Waited       time.Duration `json:"waitedNanoseconds"`
	LongestWait  time.Duration `json:"longestWaitNanoseconds"`
}

// BinderEventType says what has happened.
type BinderEventType int

// The types.
const (
	BinderWanted BinderEventType = 1 + iota // a transaction of Key waits: for a Route, or for its instance, which has crashed
	BinderDue                               // the number of transactions that Route was told has been reached
	BinderCrash                             // Instance has died
)

// BinderEvent is something that the gate has to act on.
type BinderEvent struct {
	Type     BinderEventType
	Key      uint64
	Instance Instance // for BinderCrash
}
