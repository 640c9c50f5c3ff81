// Package engine defines what carries out branch, swap, checkpoint and restore of a service's state.
//
// An Engine adopts one running, unmodified service process. The state at that moment is the base Image. An
// Instance is a private copy of the service branched from an Image; it is dormant (parked: none of its threads
// can run) or active. A checkpoint is an Image captured from an Instance. Images are immutable and frozen.
//
// All engines have the same meaning and pass the suite in enginetest. What an engine cannot virtualise it
// refuses by name before it touches the service: the error is a *Refusal, and errors.Is(err, ErrRefused) holds.
package engine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/spec"
)

// Engine makes Services. Implementations are safe for concurrent use.
type Engine interface {
	// Name is the engine's name as it is written in `--engine`.
	Name() string
	// Adopt takes over the running process t.PID, captures the base and leaves the process itself dormant for
	// good: it never serves an app. On error the process runs on as if nothing had happened.
	Adopt(ctx context.Context, t Target) (Service, error)
	// Recover takes over a service that an earlier monitor, now dead, had adopted. state is what
	// Service.Handle returned then. Instances and images are opened one by one with OpenInstance and OpenImage.
	Recover(ctx context.Context, t Target, state json.RawMessage) (Service, error)
}

// Target says which process to adopt and what its owner declared about it.
type Target struct {
	PID    int      // in the caller's pid namespace
	Shared []string // absolute paths whose files stay shared among instances
	// Private are absolute paths of directories, as the process sees them, of which each instance has its own: with the
	// files as they were when the base, or a checkpoint, was taken. Nobody else may write to them once the process is adopted.
	Private []string
	// Files is an existing directory that only root can enter, in which what instances and checkpoints have written to
	// Private is kept, and nothing else. Needed if there is Private. Its file system has to support an overlay's upper
	// directory; Adopt refuses one that does not.
	Files string
	// Listeners are the addresses on which the service listens and which become private to each instance:
	// {"unix", "/run/redis.sock"} or {"tcp", "127.0.0.1:6379"}. Instance.Dial takes an index into it.
	Listeners []Address
	// Broker is the Binder device on which a gate in this process stands in for the service; nil: there is none.
	Broker *Broker
	// Binder says that apps call the service through Binder, and how they are told apart; nil: they do not. The engine
	// has to be a BinderEngine, and the Service it makes is a BinderService.
	Binder *BinderTarget
	// Dir is an existing directory that only root can enter. Instances' sockets are bound in it.
	Dir string
	// Dirs are directories for the private unix listeners whose index is that of the listener in Listeners, instead of Dir: apps
	// may be let into these. "" and what is missing is Dir. A listener there has a name that cannot be guessed and is not
	// the one that it is bound to, which everybody can read, and it lets in nobody but root.
	Dirs []string
	// HugePages says whether the engine makes huge pages of the process's memory before it adopts it. It is up to the engine.
	HugePages spec.HugePages
	Log       *logrus.Entry
}

// Address names a listening socket as the service bound it.
type Address struct{ Network, Address string }

// ConnID names one connection between the gate and the instances of an app. The gate chooses it; it is never
// reused within a monitor's life.
type ConnID uint64

// Conns tells which socket inode (the number in "socket:[N]") of the instance belongs to which connection.
type Conns map[uint64]ConnID

// Plumbed is a connection that was put under a branched instance: FD is the gate's end, owned by the caller,
// non-blocking and close-on-exec; Inode is that of the instance's end.
type Plumbed struct {
	ID    ConnID
	FD    int
	Inode uint64
}

// Service is an adopted service. Its methods may be called from any goroutine; calls that concern the same
// Instance or Image must not overlap.
type Service interface {
	// Base is the state of the service when it was adopted. It cannot be discarded.
	Base() Image
	// Branch makes a new dormant instance that begins in state img. Connections in img whose ID is in keep are
	// re-plumbed and returned; all others see an end of file. img is not changed.
	Branch(ctx context.Context, img Image, keep []ConnID) (Instance, []Plumbed, error)
	// Checkpoint captures in, which must be dormant and stays so. Every connected socket in the instance has
	// to be in conns, else the checkpoint is refused.
	Checkpoint(ctx context.Context, in Instance, conns Conns) (Image, Timing, error)
	// Handle, OpenInstance and OpenImage are for recovery; see Engine.Recover. A handle of something that has
	// died meanwhile gives ErrGone.
	Handle() json.RawMessage
	OpenInstance(ctx context.Context, handle json.RawMessage) (Instance, error)
	OpenImage(ctx context.Context, handle json.RawMessage) (Image, error)
	// Close releases the caller's descriptors. The service, its instances and images live on.
	Close() error
	// Destroy ends every instance and image and the adopted process. Nothing is left behind.
	Destroy() error
}

// Sweeper is implemented by a Service that can end what a dead engine had begun and not finished. It is called
// after Recover, when everything that was journaled has been opened.
type Sweeper interface {
	Sweep() error
}

// EarlyCheckpointer is implemented by a Service whose instances need not stand still until their checkpoint is
// complete.
type EarlyCheckpointer interface {
	// CheckpointEarly is Checkpoint, and calls resume, unless it is nil, once and as soon as in may be activated again:
	// what in does then is not in the image. Until CheckpointEarly returns, in may be activated, parked and dialled, and
	// nothing else. An error may come after resume was called; without it, in is dormant as before.
	CheckpointEarly(ctx context.Context, in Instance, conns Conns, resume func()) (Captured, error)
}

// Captured is a checkpoint and the state of the instance when it was taken.
type Captured struct {
	Image    Image
	Instance json.RawMessage // the instance's handle
	Timing   Timing
}

// Timing says how long a checkpoint took.
type Timing struct {
	Capture time.Duration // reading the descriptors, which may overlap with Fork
	Fork    time.Duration // duplicating the memory
	Pause   time.Duration // from the call until the instance could be activated again; 0: Total
	Total   time.Duration
}

// Paused is how long the instance had to stand still.
func (t Timing) Paused() time.Duration {
	if t.Pause == 0 {
		return t.Total
	}
	return t.Pause
}

// Instance is a private copy of the service. Activate, Park and Dormant are on the transaction path: they do
// not allocate and take no lock; the caller serialises them.
type Instance interface {
	// PID is the host pid of the instance's thread group leader.
	PID() int
	// PIDFD polls readable once the instance has died. It belongs to the instance.
	PIDFD() int
	// Activate lets a dormant instance run on. It is a no-op on an active one.
	Activate() error
	// Park makes an active instance dormant. Threads are stopped at a transaction boundary: in, or at the
	// entry of, a call that waits. If a thread does not get there within limit the instance runs on and
	// ErrBusy is returned; limit 0 parks at any instruction. It is a no-op on a dormant instance.
	// ErrGone: the instance has died.
	Park(limit time.Duration) error
	Dormant() bool
	// Dial connects to the instance's i-th listener. The returned descriptor belongs to the caller and is
	// non-blocking and close-on-exec. A dormant instance can be dialled; it accepts when it is activated.
	Dial(i int) (fd int, err error)
	// Exit says how the instance died; only valid once PIDFD is readable.
	Exit() Exit
	// Memory walks the instance's page tables: O(resident memory), not for the transaction path.
	Memory() (Memory, error)
	// Kill ends the instance and waits until its processes are gone.
	Kill() error
	Handle() json.RawMessage
}

// Metered is implemented by an Instance that tells whether it has run.
type Metered interface {
	// CPUTime is what its threads have used until now. It does not grow while the instance is dormant. 0: it is not known.
	CPUTime() time.Duration
}

// Anchored is implemented by an Instance that has a process beside PID's which works for the engine while the instance is dormant.
type Anchored interface {
	// Anchor is that process' pid on the host.
	Anchor() int
}

// Halter is implemented by an Instance whose parking has two parts, so that another one need not wait for the second, and which
// runs on the sooner if it is activated before that. Between the two nothing else may be asked of it but what the transaction path
// asks of a dormant one. All is called on the same OS thread, which the caller is locked to, and is on the transaction path.
type Halter interface {
	Instance
	// Halt is the first part of Park, after which no thread runs; it gives Park's errors.
	Halt(limit time.Duration) error
	// Settle is the rest: only then does the instance stay dormant if the caller dies, which before would let it run on, and
	// only then do others learn that it has died. After an error the instance runs. It is a no-op without Halt.
	Settle() error
}

// Reachable is implemented by an Instance to whose listeners apps can connect.
type Reachable interface {
	Instance
	// Addresses are those of the instance's own listeners, in the order of Target.Listeners.
	Addresses() []Address
}

// Exit is the wait status of a dead instance.
type Exit struct {
	Code   int // exit code, or -1 when a signal ended it
	Signal int // signal number, or 0
}

// Image is a frozen state from which instances branch.
type Image interface {
	// Memory walks page tables: O(resident memory).
	Memory() (Memory, error)
	// Discard frees it. The base refuses.
	Discard() error
	Handle() json.RawMessage
}

// Memory is in bytes.
type Memory struct {
	Resident int64 // mapped pages, shared or not
	Unique   int64 // private to it: what would be freed if it went
	Huge     int64 // of the resident, in huge pages
	Shared   int64 // resident minus unique: held together with the base or other checkpoints
	Files    int64 // disk space of what it has written to private directories; it would go with it, too
}
