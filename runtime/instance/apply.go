package instance

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Apply makes the change that r records. On error the model is unchanged.
func (m *Model) Apply(r Record) error {
	switch r.Kind {
	case KindOpen:
		if m.seed != "" || m.base != nil || len(m.apps) > 0 {
			return fmt.Errorf("record %q: the model is not empty", r.Kind)
		}
		m.seed = r.Seed
		return nil
	case KindSnapshot:
		return m.UnmarshalJSON(r.Model)
	case KindBase:
		if m.base != nil {
			return fmt.Errorf("record %q: %w", r.Kind, ErrNoBase)
		}
		m.base = &Checkpoint{
			ID: Base, Time: r.Time, Trigger: "adopt", DirtyPages: r.DirtyPages, UniqueBytes: r.UniqueBytes,
			Handle: slices.Clone(r.Handle),
		}
		return nil
	}
	if m.base == nil {
		return fmt.Errorf("record %q: %w", r.Kind, ErrNoBase)
	}
	if r.App == "" || !utf8.ValidString(string(r.App)) {
		return fmt.Errorf("record %q: %q is %w", r.Kind, r.App, ErrBadApp)
	}
	if r.Kind == KindBranch {
		return m.applyBranch(&r)
	}
	e, err := m.entry(r.App)
	if err != nil {
		return fmt.Errorf("record %q: %w", r.Kind, err)
	}
	switch r.Kind {
	case KindCheckpoint, KindSize, KindDiscard, KindTag, KindUntag:
		return m.applyHistory(e, &r)
	}
	return m.applyInstance(e, &r)
}

func (m *Model) applyBranch(r *Record) error {
	e := m.apps[r.App]
	if e == nil {
		e = newEntry()
	}
	switch {
	case e.state != Empty && e.state != Gone && e.state != Evicted:
		return &TransitionError{App: r.App, From: e.state, To: Dormant}
	case !e.has(r.ID):
		return e.missing(r.App, r.ID)
	}
	m.apps[r.App] = e
	r.Handle = slices.Clone(r.Handle)
	e.begin(r)
	return nil
}

// applyInstance applies records about an app's instance.
func (m *Model) applyInstance(e *entry, r *Record) error {
	switch r.Kind {
	case KindRestore:
		switch {
		case e.state == Empty, e.state == Quarantined && !r.Manual:
			return &TransitionError{App: r.App, From: e.state, To: Dormant}
		case !e.has(r.ID):
			return e.missing(r.App, r.ID)
		}
		if r.Manual {
			e.forgive()
		}
		r.Handle = slices.Clone(r.Handle)
		e.begin(r)
		e.restores++
	case KindHandle:
		if !e.state.Live() {
			return &TransitionError{App: r.App, From: e.state, To: e.state}
		}
		e.handle = slices.Clone(r.Handle)
	case KindCount:
		e.transactions = max(e.transactions, r.Transactions)
	case KindCrash:
		if !e.state.Live() {
			return &TransitionError{App: r.App, From: e.state, To: Gone}
		}
		c := Crash{Time: r.Time, Signal: r.Signal, Code: r.Code, Transactions: r.Transactions}
		e.crash(c, m.Limits.CrashLoop)
		e.end(Gone, "crashed: "+c.cause())
	case KindLost:
		if e.state == Empty || e.state == Gone {
			return &TransitionError{App: r.App, From: e.state, To: Gone}
		}
		e.end(Gone, r.Reason)
	case KindEvict:
		if !e.state.Live() {
			return &TransitionError{App: r.App, From: e.state, To: Evicted}
		}
		e.end(Evicted, r.Reason)
	case KindQuarantine:
		if !e.state.Can(Quarantined) {
			return &TransitionError{App: r.App, From: e.state, To: Quarantined}
		}
		e.end(Quarantined, r.Reason)
	case KindForget:
		delete(m.apps, r.App)
	default:
		return fmt.Errorf("record of unknown kind %q", r.Kind)
	}
	return nil
}

// applyHistory applies records about an app's checkpoints.
func (m *Model) applyHistory(e *entry, r *Record) error {
	if r.Kind == KindCheckpoint {
		return m.applyCheckpoint(e, r)
	}
	if r.Kind == KindUntag {
		if _, ok := e.tags[r.Tag]; !ok {
			return fmt.Errorf("app %s: %w: there is no tag %q", r.App, ErrUnknownRevision, r.Tag)
		}
		e.untag(r.Tag)
		return nil
	}
	c := e.checkpoints[r.ID]
	if c == nil {
		return e.missing(r.App, r.ID)
	}
	switch r.Kind {
	case KindSize:
		if r.DirtyPages != nil {
			c.DirtyPages = cloneSize(r.DirtyPages)
		}
		if r.UniqueBytes != nil {
			c.UniqueBytes = cloneSize(r.UniqueBytes)
		}
	case KindDiscard:
		e.remove(r.ID)
	case KindTag:
		if err := CheckTag(r.Tag); err != nil {
			return err
		}
		e.tag(r.ID, r.Tag)
	}
	return nil
}

func (m *Model) applyCheckpoint(e *entry, r *Record) error {
	switch {
	case !e.state.Live():
		return fmt.Errorf("app %s: its instance is %s: %w to a checkpoint", r.App, e.state, ErrTransition)
	case !e.has(r.Parent):
		return e.missing(r.App, r.Parent)
	case r.Seq <= m.seq:
		return fmt.Errorf("app %s: checkpoint %s has number %d, which is not after %d", r.App, r.ID, r.Seq, m.seq)
	case r.ID == "" || r.ID == Base || m.taken(r.ID):
		return fmt.Errorf("app %s: checkpoint id %q is taken or not one", r.App, r.ID)
	}
	m.seq = r.Seq
	e.add(&Checkpoint{
		ID: r.ID, App: r.App, Parent: r.Parent, Seq: r.Seq, Time: r.Time, Trigger: r.Trigger,
		Transactions: r.Transactions, DirtyPages: cloneSize(r.DirtyPages), UniqueBytes: cloneSize(r.UniqueBytes),
		Handle: slices.Clone(r.Handle),
	})
	return nil
}

// Snapshot returns one record that stands for all those until now, to begin a shorter journal with.
func (m *Model) Snapshot() (Record, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return Record{}, fmt.Errorf("encode the model: %w", err)
	}
	return Record{Kind: KindSnapshot, Model: data}, nil
}
