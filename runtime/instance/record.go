package instance

import (
	"encoding/json"
	"time"
)

// Kind says what a Record records.
type Kind string

// The kinds, with the fields of Record that each uses besides Kind and Time.
const (
	KindOpen       Kind = "open"       // Seed: a new journal
	KindSnapshot   Kind = "snapshot"   // Model: all that went before
	KindBase       Kind = "base"       // Handle, DirtyPages, UniqueBytes: the service was adopted
	KindBranch     Kind = "branch"     // App, ID (from which), Handle: an instance where there was none
	KindRestore    Kind = "restore"    // App, ID (to which), Handle, Reason, Manual: one instead of the former
	KindHandle     Kind = "handle"     // App, Handle: the instance's handle changed
	KindCheckpoint Kind = "checkpoint" // App, ID, Parent, Seq, Trigger, Transactions, DirtyPages, UniqueBytes, Handle
	KindSize       Kind = "size"       // App, ID, DirtyPages, UniqueBytes: they became known
	KindDiscard    Kind = "discard"    // App, ID, Reason
	KindTag        Kind = "tag"        // App, ID, Tag: moves Tag if another checkpoint has it
	KindUntag      Kind = "untag"      // App, Tag
	KindCount      Kind = "count"      // App, Transactions
	KindCrash      Kind = "crash"      // App, Transactions, Code, Signal: the instance died by itself
	KindLost       Kind = "lost"       // App, Reason: the instance is gone for another reason
	KindEvict      Kind = "evict"      // App, Reason: the instance was ended to make room, with nothing newer than the head
	KindQuarantine Kind = "quarantine" // App, Reason
	KindForget     Kind = "forget"     // App: with its whole history
)

// Record is one change of a Model. Fields that a kind does not use are left out of the JSON.
type Record struct {
	Kind         Kind            `json:"kind"`
	Time         time.Time       `json:"time"`
	App          App             `json:"app,omitempty"`
	ID           ID              `json:"id,omitempty"`
	Parent       ID              `json:"parent,omitempty"`
	Seq          uint64          `json:"seq,omitempty"`
	Trigger      string          `json:"trigger,omitempty"`
	Tag          string          `json:"tag,omitempty"`
	Transactions uint64          `json:"transactions,omitempty"`
	DirtyPages   *int64          `json:"dirtyPages,omitempty"`
	UniqueBytes  *int64          `json:"uniqueBytes,omitempty"`
	Code         int             `json:"code,omitempty"`
	Signal       int             `json:"signal,omitempty"`
	Reason       string          `json:"reason,omitempty"`
	Manual       bool            `json:"manual,omitempty"`
	Seed         string          `json:"seed,omitempty"`
	Handle       json.RawMessage `json:"handle,omitempty"`
	Model        json.RawMessage `json:"model,omitempty"`
}
