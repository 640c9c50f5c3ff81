package instance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrTag says that a text cannot be a tag, or that it already names another checkpoint.
var ErrTag = errors.New("bad tag")

// History is an app's tree of checkpoints. The base is its root.
type History struct {
	App         App          `json:"app"`
	State       State        `json:"state"`
	Head        ID           `json:"head"` // the checkpoint that the instance descends from
	Base        Checkpoint   `json:"base"`
	Checkpoints []Checkpoint `json:"checkpoints"` // oldest first
}

// History returns an app's history.
func (m *Model) History(app App) (History, error) {
	e, err := m.entry(app)
	if err != nil {
		return History{}, err
	}
	return History{App: app, State: e.state, Head: e.head, Base: m.base.clone(), Checkpoints: clones(e.order)}, nil
}

// Head returns the checkpoint that the app's instance descends from: what it is restored to when it crashes.
// That is the newest on its line, not one of a branch that was left by restoring an older checkpoint.
func (m *Model) Head(app App) (Checkpoint, error) {
	e, err := m.entry(app)
	if err != nil {
		return Checkpoint{}, err
	}
	return m.get(app, e, e.head)
}

// Get returns the checkpoint id of an app's history; Base is one, too.
func (m *Model) Get(app App, id ID) (Checkpoint, error) {
	e, err := m.entry(app)
	if err != nil {
		return Checkpoint{}, err
	}
	return m.get(app, e, id)
}

func (m *Model) get(app App, e *entry, id ID) (Checkpoint, error) {
	if id == Base {
		return m.base.clone(), nil
	}
	if c := e.checkpoints[id]; c != nil {
		return c.clone(), nil
	}
	return Checkpoint{}, e.missing(app, id)
}

// Discard takes a checkpoint out of its app's history and returns it; the caller frees its image. Its children,
// and the instance if it was the head, then descend from its parent. The base cannot be discarded.
func (m *Model) Discard(now time.Time, app App, id ID, reason string) (Checkpoint, Record, error) {
	if id == Base {
		return Checkpoint{}, Record{}, fmt.Errorf("app %s: the base belongs to all apps and cannot be discarded", app)
	}
	c, err := m.Get(app, id)
	if err != nil {
		return Checkpoint{}, Record{}, err
	}
	r, err := m.do(Record{Kind: KindDiscard, App: app, ID: id, Reason: reason}, now)
	return c, r, err
}

// Trim discards the app's oldest checkpoints until it keeps to the limits, untagged ones before tagged ones, and
// returns them with their records. The newest and the head are never discarded, so more than the limits allow
// may stay. Sizes that are not known count as nothing. The caller writes the records to the journal before it
// frees the images: a checkpoint that a journal lists can be relied on.
func (m *Model) Trim(now time.Time, app App) ([]Checkpoint, []Record, error) {
	e, err := m.entry(app)
	if err != nil {
		return nil, nil, err
	}
	var (
		discarded []Checkpoint
		records   []Record
	)
	for _, id := range e.candidates() {
		overCount := m.Limits.Count > 0 && len(e.order) > m.Limits.Count
		overBytes := m.Limits.Bytes > 0 && e.uniqueBytes() > m.Limits.Bytes
		if !overCount && !overBytes {
			break
		}
		c, r, err := m.Discard(now, app, id, "budget")
		if err != nil {
			return discarded, records, err
		}
		discarded, records = append(discarded, c), append(records, r)
	}
	return discarded, records, nil
}

// Surplus lists, oldest first, the untagged checkpoints of all apps that Trim might discard.
func (m *Model) Surplus() []Checkpoint {
	var list []Checkpoint
	for _, e := range m.apps {
		for _, id := range e.candidates() {
			if c := e.checkpoints[id]; len(c.Tags) == 0 {
				list = append(list, c.clone())
			}
		}
	}
	slices.SortFunc(list, func(a, b Checkpoint) int { return cmp.Compare(a.Seq, b.Seq) })
	return list
}

// candidates lists what may be discarded in the order in which it would be.
func (e *entry) candidates() []ID {
	var untagged, tagged []ID
	for _, c := range e.order {
		switch {
		case c == e.newest() || c.ID == e.head:
		case len(c.Tags) > 0:
			tagged = append(tagged, c.ID)
		default:
			untagged = append(untagged, c.ID)
		}
	}
	return slices.Concat(untagged, tagged)
}

// Tag names a checkpoint. A tag names one checkpoint of an app; it is only taken from another one if move is set.
// The base has its name already and takes no tag.
func (m *Model) Tag(now time.Time, app App, id ID, tag string, move bool) (Record, error) {
	e, err := m.entry(app)
	if err != nil {
		return Record{}, err
	}
	if err := CheckTag(tag); err != nil {
		return Record{}, err
	}
	if id == Base {
		return Record{}, fmt.Errorf("app %s: %w: the base belongs to all apps and takes no tag", app, ErrTag)
	}
	if at, ok := e.tags[tag]; ok && at != id && !move {
		return Record{}, fmt.Errorf("app %s: %w: %q names checkpoint %s already; choose another", app, ErrTag, tag, at)
	}
	return m.do(Record{Kind: KindTag, App: app, ID: id, Tag: tag}, now)
}

// Untag removes a tag; the checkpoint stays.
func (m *Model) Untag(now time.Time, app App, tag string) (Record, error) {
	return m.do(Record{Kind: KindUntag, App: app, Tag: tag}, now)
}

// MaxTag is the length of the longest tag, in bytes.
const MaxTag = 64

// CheckTag returns an ErrTag that says why tag cannot be one, or nil. A caller that takes a checkpoint in order to
// tag it asks before it does.
func CheckTag(tag string) error {
	switch {
	case tag == string(Base) || tag == revHead || tag == revLatest:
		return fmt.Errorf("%w: %q has a meaning of its own", ErrTag, tag)
	case len(tag) == 0 || len(tag) > MaxTag:
		return fmt.Errorf("%w: %q has %d bytes; legal: 1 to %d", ErrTag, tag, len(tag), MaxTag)
	}
	for i := range len(tag) {
		c := tag[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("%w: %q; legal: letters, digits, and after the first of these . _ -", ErrTag, tag)
		}
	}
	return nil
}
