package instance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// modelJSON is all of a Model that lasts.
type modelJSON struct {
	Version int         `json:"version"`
	Seed    string      `json:"seed"`
	Seq     uint64      `json:"seq"`
	Base    *Checkpoint `json:"base,omitempty"`
	Apps    []entryJSON `json:"apps"` // sorted
}

type entryJSON struct {
	App          App             `json:"app"`
	State        State           `json:"state"`
	Reason       string          `json:"reason,omitempty"`
	Generation   uint64          `json:"generation"`
	Born         time.Time       `json:"born,omitzero"`
	Head         ID              `json:"head"`
	Transactions uint64          `json:"transactions,omitempty"`
	Captured     uint64          `json:"captured,omitempty"`
	Restores     uint64          `json:"restores,omitempty"`
	Crashes      uint64          `json:"crashes,omitempty"`
	Recent       []Crash         `json:"recentCrashes,omitempty"`
	Stalled      int             `json:"stalled,omitempty"`
	Handle       json.RawMessage `json:"handle,omitempty"`
	Checkpoints  []*Checkpoint   `json:"checkpoints,omitempty"` // oldest first; tags are theirs
}

// MarshalJSON writes all of the model that lasts. A live instance is written as dormant; see Move.
func (m *Model) MarshalJSON() ([]byte, error) {
	j := modelJSON{Version: JournalVersion, Seed: m.seed, Seq: m.seq, Base: m.base, Apps: []entryJSON{}}
	for _, app := range slices.Sorted(maps.Keys(m.apps)) {
		e := m.apps[app]
		state := e.state
		if state.Live() {
			state = Dormant
		}
		j.Apps = append(j.Apps, entryJSON{
			App: app, State: state, Reason: e.reason, Generation: e.generation, Born: e.born, Head: e.head,
			Transactions: e.transactions, Captured: e.captured, Restores: e.restores, Crashes: e.crashes,
			Recent: e.recent, Stalled: e.stalled, Handle: e.handle, Checkpoints: e.order,
		})
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote in place of what the model holds; its Limits stay. On error the
// model is unchanged.
func (m *Model) UnmarshalJSON(data []byte) error {
	var j modelJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return fmt.Errorf("%w: model: %w", ErrCorrupt, err)
	}
	if j.Version != JournalVersion {
		return fmt.Errorf("model: %w: %d; this corsa reads %d", ErrVersion, j.Version, JournalVersion)
	}
	if j.Base == nil && len(j.Apps) > 0 {
		return fmt.Errorf("%w: model: it has apps and no base", ErrCorrupt)
	}
	apps := make(map[App]*entry, len(j.Apps))
	ids := map[ID]bool{"": true, Base: true}
	for i := range j.Apps {
		app := j.Apps[i].App
		if app == "" || apps[app] != nil {
			return fmt.Errorf("%w: model: app %q is there twice or is none", ErrCorrupt, app)
		}
		e, err := j.Apps[i].entry(ids, j.Seq)
		if err != nil {
			return fmt.Errorf("%w: model: app %s: %w", ErrCorrupt, app, err)
		}
		apps[app] = e
	}
	m.seed, m.seq, m.base, m.apps = j.Seed, j.Seq, j.Base, apps
	return nil
}

// entry rebuilds an app; ids holds the checkpoint ids of the service that are taken and gets this app's.
func (j *entryJSON) entry(ids map[ID]bool, seq uint64) (*entry, error) {
	e := newEntry()
	e.state, e.reason, e.generation, e.born, e.head = j.State, j.Reason, j.Generation, j.Born, j.Head
	e.transactions, e.captured, e.restores, e.crashes = j.Transactions, j.Captured, j.Restores, j.Crashes
	e.recent, e.stalled, e.handle = j.Recent, j.Stalled, j.Handle
	if _, ok := moves[j.State]; !ok {
		return nil, fmt.Errorf("there is no state %q", j.State)
	}
	var last uint64
	for _, c := range j.Checkpoints {
		switch {
		case c == nil || ids[c.ID] || c.App != j.App:
			return nil, fmt.Errorf("a checkpoint is null, there twice, or another app's")
		case c.Seq <= last || c.Seq > seq:
			return nil, fmt.Errorf("checkpoint %s is out of order", c.ID)
		case !e.has(c.Parent):
			return nil, fmt.Errorf("checkpoint %s comes before its parent %s", c.ID, c.Parent)
		}
		for _, tag := range c.Tags {
			if _, twice := e.tags[tag]; twice || CheckTag(tag) != nil {
				return nil, fmt.Errorf("tag %q is there twice or is none", tag)
			}
			e.tags[tag] = c.ID
		}
		slices.Sort(c.Tags)
		ids[c.ID], last = true, c.Seq
		e.checkpoints[c.ID] = c
		e.order = append(e.order, c)
	}
	if !e.has(j.Head) {
		return nil, fmt.Errorf("there is no checkpoint %s, the head", j.Head)
	}
	return e, nil
}
