package instance

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Instance is an app and its instance as others see them.
type Instance struct {
	App          App             `json:"app"`
	State        State           `json:"state"`
	Reason       string          `json:"reason,omitempty"` // why it is quarantined or gone
	Generation   uint64          `json:"generation"`       // how many instances the app has had
	Born         time.Time       `json:"born,omitzero"`    // when this one was branched
	Head         ID              `json:"head"`             // the checkpoint that it descends from
	Transactions uint64          `json:"transactions"`     // answered, when last recorded
	Captured     uint64          `json:"captured"`         // checkpoints ever taken
	Kept         int             `json:"kept"`             // of which still there
	UniqueBytes  int64           `json:"uniqueBytes"`      // of these, as far as known
	Restores     uint64          `json:"restores"`
	Crashes      uint64          `json:"crashes"`
	LastCrash    *Crash          `json:"lastCrash,omitempty"`
	Handle       json.RawMessage `json:"handle,omitempty"` // the engine's; opaque; empty unless the instance is live
}

// Crash is an unexpected end of an app's instance.
type Crash struct {
	Time         time.Time `json:"time"`
	Signal       int       `json:"signal,omitempty"` // that ended it, or 0
	Code         int       `json:"code,omitempty"`   // its exit code, if Signal is 0
	Transactions uint64    `json:"transactions"`     // answered until then
}

// entry is what a Model knows of one app.
type entry struct {
	state        State
	reason       string
	generation   uint64
	born         time.Time
	head         ID
	transactions uint64
	captured     uint64
	restores     uint64
	crashes      uint64
	recent       []Crash // newest last; what crash-loop detection looks at
	stalled      int     // how many of the newest crashes had no progress in between
	handle       json.RawMessage

	checkpoints map[ID]*Checkpoint
	order       []*Checkpoint // oldest first
	tags        map[string]ID
}

func newEntry() *entry {
	return &entry{state: Empty, head: Base, checkpoints: map[ID]*Checkpoint{}, tags: map[string]ID{}}
}

func (e *entry) view(app App) Instance {
	v := Instance{
		App: app, State: e.state, Reason: e.reason, Generation: e.generation, Born: e.born, Head: e.head,
		Transactions: e.transactions, Captured: e.captured, Kept: len(e.order), UniqueBytes: e.uniqueBytes(),
		Restores: e.restores, Crashes: e.crashes, Handle: slices.Clone(e.handle),
	}
	if n := len(e.recent); n > 0 {
		last := e.recent[n-1]
		v.LastCrash = &last
	}
	return v
}

func (e *entry) uniqueBytes() int64 {
	var sum int64
	for _, c := range e.order {
		if c.UniqueBytes != nil {
			sum += *c.UniqueBytes
		}
	}
	return sum
}

// move checks and makes a transition.
func (e *entry) move(app App, to State) error {
	if !e.state.Can(to) {
		return &TransitionError{App: app, From: e.state, To: to}
	}
	e.state = to
	return nil
}

// has tells whether id can be restored for the app.
func (e *entry) has(id ID) bool {
	_, ok := e.checkpoints[id]
	return ok || id == Base
}

// begin starts a new generation.
func (e *entry) begin(r *Record) {
	e.state, e.reason = Dormant, ""
	e.generation++
	e.born, e.head, e.handle = r.Time, r.ID, r.Handle
}

// end is the end of the instance's process.
func (e *entry) end(to State, reason string) {
	e.state, e.reason, e.handle = to, reason, nil
}

func (e *entry) add(c *Checkpoint) {
	e.checkpoints[c.ID] = c
	e.order = append(e.order, c)
	e.head = c.ID
	e.captured++
	e.transactions = max(e.transactions, c.Transactions)
}

// remove takes a checkpoint out. What descends from it, the instance included, then descends from its parent.
func (e *entry) remove(id ID) {
	c := e.checkpoints[id]
	delete(e.checkpoints, id)
	e.order = slices.DeleteFunc(e.order, func(o *Checkpoint) bool { return o == c })
	for _, o := range e.order {
		if o.Parent == id {
			o.Parent = c.Parent
		}
	}
	if e.head == id {
		e.head = c.Parent
	}
	for _, tag := range c.Tags {
		delete(e.tags, tag)
	}
}

func (e *entry) untag(tag string) {
	if c := e.checkpoints[e.tags[tag]]; c != nil {
		c.Tags = slices.DeleteFunc(c.Tags, func(t string) bool { return t == tag })
		if len(c.Tags) == 0 {
			c.Tags = nil
		}
	}
	delete(e.tags, tag)
}

func (e *entry) tag(id ID, tag string) {
	e.untag(tag)
	e.tags[tag] = id
	c := e.checkpoints[id]
	at, _ := slices.BinarySearch(c.Tags, tag)
	c.Tags = slices.Insert(c.Tags, at, tag)
}

// newest is the checkpoint that was taken last, or nil.
func (e *entry) newest() *Checkpoint {
	if len(e.order) == 0 {
		return nil
	}
	return e.order[len(e.order)-1]
}

func (e *entry) missing(app App, id ID) error {
	return fmt.Errorf("app %s: %w: there is no checkpoint %s", app, ErrUnknownRevision, id)
}
