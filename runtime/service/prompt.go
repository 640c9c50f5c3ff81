package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

var _ gate.PromptMonitor = (*Monitor)(nil)

// PromptInstance implements gate.PromptMonitor.
func (m *Monitor) PromptInstance(app instance.App) (engine.Instance, bool) {
	if m.spares == nil {
		return nil, false
	}
	h := m.holding(app)
	if !h.mu.TryLock() {
		return nil, false
	}
	defer h.mu.Unlock()
	head, ok := m.ledger.prompt(app)
	if !ok || !m.ledger.inMemory && !m.ledger.fleeting || h.inst != nil || // new apps may come often, and a disk may be busy
		h.left || h.making != nil {
		return nil, false
	}
	start := time.Now()
	x := m.spares.take(h, head)
	if x == nil {
		return nil, false
	}
	defer m.spares.plan(h)
	rep := x.give(nil)
	if err := m.ledger.branchedBy(m.ledger.commitLate, app, head, x.handle); err != nil {
		err = errors.Join(err, m.spares.retire(rep.Instance))
		m.log.WithField("app", string(app)).WithError(err).Warn("cannot record that an app gets a spare instance")
		return nil, false // the next attempt says it to those whom it concerns
	}
	h.inst, h.given = rep.Instance, true
	m.metrics.branched("newest", time.Since(start))
	m.event(Event{Type: EventInstance, App: app, Checkpoint: string(head), Detail: fmt.Sprintf("pid %d", h.inst.PID())})
	return h.inst, true
}

// PromptCrashed implements gate.PromptMonitor.
func (m *Monitor) PromptCrashed(app instance.App, exit engine.Exit, open []engine.ConnID) (rep gate.Replacement, ok bool, err error) {
	if m.spares == nil {
		return rep, false, nil
	}
	start := time.Now()
	h := m.holding(app)
	if !h.mu.TryLock() {
		return rep, false, nil
	}
	defer h.mu.Unlock()
	head, ok := m.ledger.prompt(app)
	if !ok || h.inst == nil || h.making != nil {
		return rep, false, nil
	}
	x := m.spares.take(h, head)
	if x == nil {
		return rep, false, nil
	}
	defer m.spares.plan(h)
	former := h.inst
	h.inst = nil
	rep = x.give(open)
	refusal, err := m.ledger.replaced(app, exit, m.transactions(h), head, x.handle)
	m.metrics.crashes.WithLabelValues(string(app)).Inc()
	m.event(Event{Type: EventCrash, App: app, Detail: describeExit(exit)})
	err = errors.Join(err, m.spares.retire(former))
	if err != nil || refusal != nil {
		err = errors.Join(err, m.refused(h, refusal), m.abandonReplacement(rep))
		return gate.Replacement{}, true, err
	}
	h.inst, h.given = rep.Instance, true
	m.metrics.branched("newest", time.Since(start))
	m.replacedEvent(h, head, rep)
	return rep, true, nil
}

// Prompted implements gate.PromptMonitor. To wake another thread takes longer than all of the above.
func (m *Monitor) Prompted() {
	m.spares.nudge()
	m.budget.nudge()
}

// abandonReplacement has an instance ended that nobody has got.
func (m *Monitor) abandonReplacement(rep gate.Replacement) error {
	for _, p := range rep.Plumbed {
		_ = unix.Close(p.FD)
	}
	return m.spares.retire(rep.Instance)
}

// firstInstance gives h's app, which has none, an instance with those of the connections open that it knows. h.mu is held.
func (m *Monitor) firstInstance(ctx context.Context, h *holding, open []engine.ConnID) (gate.Replacement, error) {
	rep, from, err := m.branchNewest(ctx, h, nil, open)
	if err != nil {
		return gate.Replacement{}, err
	}
	defer m.spares.want(h)
	defer m.budget.nudge()
	if err := m.ledger.branched(h.app, from, rep.Instance.Handle()); err != nil {
		return gate.Replacement{}, errors.Join(err, discardReplacement(rep))
	}
	h.inst = rep.Instance
	h.ran.Store(time.Now().UnixNano())
	m.event(Event{Type: EventInstance, App: h.app, Checkpoint: string(from), Detail: fmt.Sprintf("pid %d", h.inst.PID())})
	return rep, nil
}

// refused tells of a refusal to serve h's app after a crash, and returns it.
func (m *Monitor) refused(h *holding, refusal error) error {
	switch {
	case errors.Is(refusal, gate.ErrQuarantined):
		m.spares.drop(h)
		m.event(Event{Type: EventQuarantined, App: h.app})
	case refusal != nil:
		m.event(Event{Type: EventStopped, App: h.app})
	}
	return refusal
}

func (m *Monitor) replacedEvent(h *holding, from instance.ID, rep gate.Replacement) {
	m.event(Event{Type: EventReplaced, App: h.app, Checkpoint: string(from), Detail: fmt.Sprintf("pid %d, %d connections", rep.Instance.PID(), len(rep.Plumbed))})
}

// prompt returns the state to which app is brought back. ok is false if the app is not to be served, or if to write to the
// journal will take long now.
func (l *ledger) prompt(app instance.App) (head instance.ID, ok bool) {
	if !l.mu.TryLock() {
		return "", false
	}
	ok = !l.behind && (l.size <= compactAbove || l.size <= compactFactor*l.floor)
	l.mu.Unlock()
	if !ok || l.refusal(app) != nil {
		return "", false
	}
	return l.head(app), true
}

// replaced records that app's instance died by itself and that one in state from takes its place, in one step. refusal
// says that the app is not to have it: then only the death is recorded.
func (l *ledger) replaced(app instance.App, exit engine.Exit, transactions uint64, from instance.ID, handle []byte) (refusal, err error) {
	err = l.commitLate(func(now time.Time) ([]instance.Record, error) {
		records, err := l.model.Crash(now, app, crashOf(now, exit, transactions))
		if err != nil {
			return nil, err
		}
		a, err := l.model.App(app)
		if err != nil {
			return nil, err
		}
		if refusal = l.refuses(&a); refusal != nil {
			return records, nil
		}
		r, err := l.model.Branch(now, app, from, handle)
		if err != nil {
			return nil, err
		}
		return append(records, r), nil
	}, func(now time.Time) { _, _ = l.model.Lost(now, app, "it could not be recorded") })
	return refusal, err
}
