// Package spec says what a bundle declares: an OCI config.json whose dev.corsa.* annotations describe
// how the service in it is virtualised. It turns them into a validated Service, and writes such bundles.
package spec

import "time"

// AppKey says which property of a client, as the kernel reports it, names the app that it belongs to.
type AppKey string

// The app keys. Each comes from SO_PEERCRED or SO_PEERPIDFD of the client's socket, never from its payload.
const (
	AppKeyUID        AppKey = "uid"
	AppKeyPID        AppKey = "pid"
	AppKeyCgroup     AppKey = "cgroup"
	AppKeyConnection AppKey = "connection"
)

// Concurrency says whether instances of different apps may run at the same time.
type Concurrency string

// Strict is the poster's invariant: one instance of a service is runnable at a time.
// Parallel lets instances of different apps run together, for services without exclusive hardware.
const (
	Strict   Concurrency = "strict"
	Parallel Concurrency = "parallel"
)

// CheckpointMode says what triggers a checkpoint.
type CheckpointMode string

// CheckpointEvery checkpoints after every Nth transaction, CheckpointInterval when at least Interval has
// passed and the app has changed something since, CheckpointManual only when asked.
const (
	CheckpointEvery    CheckpointMode = "every"
	CheckpointInterval CheckpointMode = "interval"
	CheckpointManual   CheckpointMode = "manual"
)

// CheckpointPolicy is the parsed form of "every", "every=N", "interval=DURATION" or "manual".
type CheckpointPolicy struct {
	Mode     CheckpointMode
	N        int           // transactions, for CheckpointEvery; at least 1
	Interval time.Duration // for CheckpointInterval; positive
}

// CrashMode says what happens to an app whose instance died.
type CrashMode string

// CrashRestore brings the newest checkpoint back under the app's open connections; CrashRetry does so and
// re-delivers the request, at most Retries times and only while nothing of its reply has left;
// CrashStop leaves the app without an instance until it is restored by hand.
const (
	CrashRestore CrashMode = "restore"
	CrashRetry   CrashMode = "retry"
	CrashStop    CrashMode = "stop"
)

// CrashPolicy is the parsed form of "restore", "retry=N" or "stop".
type CrashPolicy struct {
	Mode    CrashMode
	Retries int // for CrashRetry; at least 1
}

// Endpoint is a public address of the service: a unix socket path or a TCP port on a loopback address.
type Endpoint struct {
	Network string // "unix" or "tcp"
	Address string // an absolute, clean path, or "127.0.0.1:6379"
}

// The gates: one stands before sockets, the other in the Binder driver.
const (
	GateSocket = "socket"
	GateBinder = "binder"
)

// Service is a validated declaration of one virtualised service. The zero value is not valid; see Default.
type Service struct {
	Engine       string     // "auto", "fork" or "kmod"
	Gate         string     // GateSocket or GateBinder
	Endpoints    []Endpoint // at least one, for GateSocket; none, for GateBinder
	Binder       Binder     // for GateBinder
	AppKey       AppKey
	Checkpoint   CheckpointPolicy
	History      int       // checkpoints kept per app; at least 1
	HistoryBytes int64     // unique bytes kept by one app's checkpoints; 0 means no limit
	HugePages    HugePages // "", in records of earlier versions, is HugePagesOff
	Spares       int       // instances kept ready for new apps; 0: none, nor for checkpoints
	// MemoryBudget is what the service may hold, in bytes, with all its instances and checkpoints, before apps are evicted; 0: no limit.
	MemoryBudget int64
	Instances    int // apps that may have an instance before others are evicted; 0: no limit
	OnCrash      CrashPolicy
	CrashReply   string // bytes sent to a connection whose request died with the instance; "" resets the connection
	Concurrency  Concurrency
	Timers       TimerPolicy
	Path         Path     // "", in records of earlier versions, is PathAuto
	Shared       []string // absolute paths whose files every instance shares on purpose
	// Private are absolute paths of directories of which every instance has its own, undone by a restore as its memory is.
	Private []string
	Warm    string // a shell command run inside the sandbox once the service listens, before it is adopted
}
