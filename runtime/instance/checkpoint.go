package instance

import (
	"encoding/json"
	"slices"
	"time"
)

// ID names a checkpoint within its service: 12 lower-case hexadecimal digits, or Base. Ids are not reused.
type ID string

// Base is the id of the state in which the service was adopted: the root of every app's history.
const Base ID = "base"

// idLength is 48 bits: among a million checkpoints of a service, the chance that an id comes up twice is 0.2 %, and
// then the next one is taken.
const idLength = 12

// Checkpoint is an immutable state of an app's instance.
type Checkpoint struct {
	ID           ID              `json:"id"`
	App          App             `json:"app,omitempty"`    // empty for the base
	Parent       ID              `json:"parent,omitempty"` // empty for the base
	Seq          uint64          `json:"seq"`              // counts the checkpoints of the service, from 1; the base has 0
	Time         time.Time       `json:"time"`
	Trigger      string          `json:"trigger"`               // what caused it: a policy, or a request
	Transactions uint64          `json:"transactions"`          // answered to the app until then
	Tags         []string        `json:"tags,omitempty"`        // sorted
	DirtyPages   *int64          `json:"dirtyPages,omitempty"`  // changed since the parent; nil if unknown
	UniqueBytes  *int64          `json:"uniqueBytes,omitempty"` // freed if it went; nil if unknown
	Handle       json.RawMessage `json:"handle,omitempty"`      // the engine's; opaque
}

// clone makes a copy that shares nothing with c that can change.
func (c *Checkpoint) clone() Checkpoint {
	d := *c
	d.Tags = slices.Clone(c.Tags)
	d.Handle = slices.Clone(c.Handle)
	d.DirtyPages, d.UniqueBytes = cloneSize(c.DirtyPages), cloneSize(c.UniqueBytes)
	return d
}

func cloneSize(n *int64) *int64 {
	if n == nil {
		return nil
	}
	return Known(*n)
}

// Known makes a size that is known.
func Known(n int64) *int64 { return &n }
