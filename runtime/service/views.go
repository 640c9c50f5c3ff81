package service

import (
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

// ServiceView describes a virtualised service.
type ServiceView struct {
	ID          string            `json:"id"`
	Annotations map[string]string `json:"annotations"` // what was declared, with all defaults
	Engine      string            `json:"engine"`
	PID         int               `json:"pid"` // of the adopted process: the base, which never runs
	Monitor     int               `json:"monitor"`
	Supervisor  int               `json:"supervisor"`
	Created     time.Time         `json:"created"`
	Since       time.Time         `json:"since"` // since when this monitor serves
	Recovered   bool              `json:"recovered"`
	Apps        int               `json:"apps"`
	Base        *MemoryView       `json:"base"`
	Spares      SparesView        `json:"spares"`
	Budget      *BudgetView       `json:"budget,omitempty"` // absent without one
}

// BudgetView is what is used of the budgets memory-budget and instances.
type BudgetView struct {
	Memory    int64 `json:"memory,omitempty"`    // bytes
	Used      int64 `json:"used,omitempty"`      // of it, when that was last looked at
	Instances int   `json:"instances,omitempty"` // that are allowed
	Exceeded  bool  `json:"exceeded"`            // and there was nothing idle left to evict
}

// SparesView counts the instances that are ready for what may come: an app's crash or restore, and a new app.
type SparesView struct {
	Base  int    `json:"base"`  // for new apps
	Apps  int    `json:"apps"`  // apps that have one of the checkpoint that they are at
	Taken uint64 `json:"taken"` // since the monitor began
}

// MemoryView is in bytes; see engine.Memory.
type MemoryView struct {
	Resident int64 `json:"resident"`
	Unique   int64 `json:"unique"`
	Huge     int64 `json:"huge"` // of the resident
	Shared   int64 `json:"shared"`
	Files    int64 `json:"files,omitempty"`
}

func viewMemory(m engine.Memory) *MemoryView {
	return &MemoryView{Resident: m.Resident, Unique: m.Unique, Huge: m.Huge, Shared: m.Shared, Files: m.Files}
}

// AppView describes an app. Switches, bytes and waiting time are counted since the monitor that answers began.
type AppView struct {
	App instance.App `json:"app"`
	// State is active or dormant; evicted: it was idle and its instance was ended to make room, which the next request undoes; gone: the next request gets it a new instance; quarantined or stopped: none does;
	// left: the app has ended, and tagged checkpoints are left of it.
	State string `json:"state"`
	PID   int    `json:"pid,omitempty"`
	// Path is how its bytes get to the instance: proxied, direct, or mixed if it has connections of both kinds. Without one it is
	// how the next one's would.
	Path        string `json:"path"`
	Connections int    `json:"connections"`
	Direct      int    `json:"direct"` // of the connections
	// Proxied says why connections do not become direct; absent if they do.
	Proxied string `json:"proxied,omitempty"`
	// Led says that its connect() leads straight to its instance; Unled, why it does not although path=connect.
	Led   bool   `json:"led"`
	Unled string `json:"unled,omitempty"`
	// Untracked says that there have been direct connections: transactions, bytes and waiting time on them are not counted.
	Untracked      bool        `json:"untracked"`
	Transactions   uint64      `json:"transactions"`
	Switches       uint64      `json:"switches"`
	BytesIn        uint64      `json:"bytesIn"`
	BytesOut       uint64      `json:"bytesOut"`
	WaitingSeconds float64     `json:"waitingSeconds"`
	Checkpoints    int         `json:"checkpoints"`
	Head           string      `json:"head"` // the state that its instance began from: a checkpoint, or base
	Crashes        uint64      `json:"crashes"`
	Spare          bool        `json:"spare"`            // a crash, or a restore to Head, takes an instance that is ready
	Memory         *MemoryView `json:"memory,omitempty"` // of the instance; absent without one
}

// CheckpointView describes a checkpoint just taken. Durations are in microseconds.
type CheckpointView struct {
	App instance.App `json:"app"`
	ID  string       `json:"id"`
	Tag string       `json:"tag,omitempty"`
	// DirtyPages differ from those of its parent; absent if that could not be counted.
	DirtyPages *int64  `json:"dirtyPages,omitempty"`
	CaptureUS  float64 `json:"captureMicroseconds"`
	ForkUS     float64 `json:"forkMicroseconds"`
	PauseUS    float64 `json:"pauseMicroseconds"` // that the instance stood still
	TotalUS    float64 `json:"totalMicroseconds"`
}

// RestoreView describes a restore just done.
type RestoreView struct {
	App         instance.App `json:"app"`
	To          string       `json:"to"`
	Connections int          `json:"connections"` // open ones that exist in the restored state
	TotalUS     float64      `json:"totalMicroseconds"`
}

type (
	checkpointRequest struct {
		Tag string `json:"tag"`
	}
	restoreRequest struct {
		To string `json:"to"`
	}
	signalRequest struct {
		Signal int `json:"signal"`
	}
)
