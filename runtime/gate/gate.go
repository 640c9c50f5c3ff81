// Package gate defines what intercepts an app's transactions, names the app and delivers when its instance runs.
package gate

import (
	"context"
	"errors"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

var (
	// ErrQuarantined is returned by Monitor.Instance and Monitor.Crashed for an app whose instance crashes again
	// and again; its connections are answered with the service's crash reply, or reset.
	ErrQuarantined = errors.New("app is quarantined after a crash loop")
	// ErrStopped is the same for policy on-crash=stop.
	ErrStopped = errors.New("app is stopped after a crash")
	// ErrUnknownApp says that the gate has never seen the app, or that it has ended.
	ErrUnknownApp = errors.New("no such app")
)

// Monitor is what a gate asks of the service monitor. Calls come from goroutines of the gate, never from the
// thread that moves bytes; at most one call per app is under way.
type Monitor interface {
	// Instance returns the app's instance; a new app gets one branched from the base.
	Instance(ctx context.Context, app instance.App) (engine.Instance, error)
	// Checkpoint captures the app's instance, which is dormant, at a transaction boundary, and stays so meanwhile.
	Checkpoint(ctx context.Context, app instance.App, trigger string, conns engine.Conns) error
	// Crashed tells that the app's instance died and asks for the one that takes its place.
	Crashed(ctx context.Context, app instance.App, exit engine.Exit, open []engine.ConnID) (Replacement, error)
	// Left tells that the app can never come back: its connection or its process has ended. Its instance, which may
	// be dead already, is ended and its checkpoints are discarded, except those that have a tag.
	Left(ctx context.Context, app instance.App) error
}

// EarlyMonitor is implemented by a Monitor whose checkpoints let the app go on before they are complete.
type EarlyMonitor interface {
	// CheckpointEarly is Monitor.Checkpoint, and calls resume, at most once and on the calling goroutine, as soon as the
	// instance may be activated again. Other calls for the app may be made from then on, also before it returns; they
	// take effect after it.
	CheckpointEarly(ctx context.Context, app instance.App, trigger string, conns engine.Conns, resume func()) error
}

// PromptMonitor is implemented by a Monitor that may have an instance ready. Its methods are called on the thread that moves
// bytes and never wait. Without ok nothing has been done, and the method of Monitor has to be called.
type PromptMonitor interface {
	// PromptInstance is Monitor.Instance for an app without an instance.
	PromptInstance(app instance.App) (in engine.Instance, ok bool)
	// PromptCrashed is Monitor.Crashed.
	PromptCrashed(app instance.App, exit engine.Exit, open []engine.ConnID) (rep Replacement, ok bool, err error)
	// Prompted is called after one of these has given something, when the app goes on: what can wait is done then.
	Prompted()
}

// SparingMonitor is implemented by a Monitor that has instances for apps which nobody has seen yet. Its methods may be called
// from any goroutine; TakeSpare never waits.
type SparingMonitor interface {
	// TakeSpare returns an instance in the state of the base that is nobody's, or nil. It is the gate's until it is given or
	// returned. It is not on record: the next monitor ends it.
	TakeSpare() engine.Instance
	// GiveSpare makes in the instance of app, which must have none and be in the state of the base. After an error in has been
	// ended.
	GiveSpare(ctx context.Context, app instance.App, in engine.Instance) error
	// ReturnSpare ends in.
	ReturnSpare(in engine.Instance) error
}

// RecallMonitor is implemented by a Monitor that evicts apps.
type RecallMonitor interface {
	// Recall is Monitor.Instance for an app that has been evicted. open are the connections that it had and has.
	Recall(ctx context.Context, app instance.App, open []engine.ConnID) (Replacement, error)
}

// Replacement is an instance that takes the place of an app's former one. Connections of the app that are not in
// Plumbed did not exist in the state it was branched from; the gate dials them anew.
type Replacement struct {
	Instance engine.Instance
	Plumbed  []engine.Plumbed
}

// Held is an app at a transaction boundary with its instance dormant.
type Held struct {
	Instance engine.Instance // nil if the app has none (it crashed and is stopped)
	Conns    engine.Conns    // socket inodes of the instance's ends
	// Open are the connections that the app still has open. One in a transaction during which a checkpoint was taken has
	// the number that it has there besides its own.
	Open []engine.ConnID
	// Resume, if it is not nil, lets the app go on with Instance before fn returns; fn calls it at most once, and returns no
	// Replacement then.
	Resume func()
}

// Gate accepts transactions. Its methods may be called from any goroutine.
type Gate interface {
	// Serve binds the public endpoints and moves bytes until ctx is done. It returns nil then.
	Serve(ctx context.Context) error
	// Hold waits until app is at a transaction boundary, parks its instance and calls fn while the app's requests
	// wait. If fn returns a Replacement with an Instance, the app goes on with that one (fn has ended the old one).
	Hold(ctx context.Context, app instance.App, fn func(context.Context, Held) (Replacement, error)) error
	// Stats returns counters of every app that the gate has seen, sorted by app.
	Stats() []AppStats
}

// TransactionCounter is implemented by a Gate that need not go through all apps to know one app's counter.
type TransactionCounter interface {
	// Transactions is AppStats.Transactions of app; 0 if the gate has not seen it.
	Transactions(app instance.App) uint64
}

// Evictor is implemented by a Gate whose apps can do without an instance until their next request.
type Evictor interface {
	// Evict is Hold for an app with which nothing is under way, to end its instance; else, and if it has none, the error is
	// engine.ErrBusy, and fn is not called. If fn returns nil it has ended the instance, in a state of which there is a
	// checkpoint that knows all of Held.Conns. The app's connections stay open. With the next request, connection or Hold the gate asks for an
	// instance: by RecallMonitor.Recall.
	Evict(ctx context.Context, app instance.App, fn func(context.Context, Held) error) error
}

// AppStats are counters since the gate began to serve.
type AppStats struct {
	App          instance.App
	Connections  int           // open now
	Transactions uint64        // requests answered
	Switches     uint64        // activations after another app's instance
	BytesIn      uint64        // from the app
	BytesOut     uint64        // to the app
	Waiting      time.Duration // total time that requests waited for the gate
	Breaks       uint64        // turns that ended by force, away from a transaction boundary
	Direct       int           // of Connections: the gate does not see their bytes
	Untracked    bool          // there have been such: requests and bytes on them are not counted
	Proxied      string        // why connections do not become direct; "": they do
	Led          bool          // its connect() leads to its instance, past the gate
	Unled        string        // why it does not although it should
}
