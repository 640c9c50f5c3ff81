package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

var _ gate.RecallMonitor = (*Monitor)(nil)

// evicted is the trigger of a checkpoint that is taken of an instance before it is ended.
const evicted = "evict"

// evict ends the instance of h's app, of which a checkpoint is left that has everything. engine.ErrBusy: something is under way
// with the app.
func (m *Monitor) evict(ctx context.Context, h *holding, why string) error {
	e, ok := m.gate.(gate.Evictor)
	if !ok {
		return errors.ErrUnsupported
	}
	err := e.Evict(ctx, h.app, func(ctx context.Context, held gate.Held) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		return m.endInstance(ctx, h, held.Conns, why)
	})
	if !errors.Is(err, gate.ErrUnknownApp) {
		return err
	}
	// The app has not come back since this monitor took over.
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given {
		return fmt.Errorf("app %s: %w", h.app, engine.ErrBusy) // but now it has
	}
	return m.endInstance(ctx, h, nil, why)
}

// endInstance is evict with the app at rest and h.mu held. conns are its connections. Whoever dies at whatever moment, the app
// has its instance or a checkpoint of it on record.
func (m *Monitor) endInstance(ctx context.Context, h *holding, conns engine.Conns, why string) error {
	m.spares.await(h)
	if h.inst == nil || h.left {
		return fmt.Errorf("app %s: %w", h.app, ErrNoInstance)
	}
	if !m.captured(h, conns) {
		if _, err := m.capture(ctx, h, evicted, "", conns, nil); err != nil {
			return err
		}
	}
	head := m.ledger.head(h.app)
	if err := m.ledger.evicted(h.app, why); err != nil {
		return err
	}
	in := h.inst
	h.inst, h.given = nil, false
	m.spares.drop(h)
	m.metrics.evictions.WithLabelValues("instance").Inc()
	m.event(Event{Type: EventEvicted, App: h.app, Checkpoint: string(head), Detail: why})
	if err := ignoreGone(in.Kill()); err != nil {
		// It is on record that the app has none, and so it is.
		m.log.WithField("app", string(h.app)).WithError(err).Error("cannot clear away the instance of an evicted app")
	}
	return nil
}

// captured reports whether the checkpoint that h's instance is at has all of it and knows all of conns.
func (m *Monitor) captured(h *holding, conns engine.Conns) bool {
	head := m.ledger.head(h.app)
	img := h.images[head]
	if img == nil || h.still.id != head || h.still.inst != h.inst || h.still.cpu == 0 || h.still.cpu != cpuTime(h.inst) {
		return false
	}
	known := make(map[engine.ConnID]bool, len(img.conns))
	for _, id := range img.conns {
		known[id] = true
	}
	for _, id := range conns {
		if !known[id] || img.foreign {
			return false
		}
	}
	return true
}

// still says how much an instance had run when it was captured.
type still struct {
	inst engine.Instance
	id   instance.ID   // of the checkpoint
	cpu  time.Duration // 0: not known
}

func cpuTime(in engine.Instance) time.Duration {
	if m, ok := in.(engine.Metered); ok {
		return m.CPUTime()
	}
	return 0
}

// Recall implements gate.RecallMonitor.
func (m *Monitor) Recall(ctx context.Context, app instance.App, open []engine.ConnID) (gate.Replacement, error) {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := m.ledger.refusal(app); err != nil {
		return gate.Replacement{}, err
	}
	rep, err := m.firstInstance(ctx, h, open)
	if err != nil {
		return gate.Replacement{}, err
	}
	h.given = true
	return rep, nil
}

// evicted records that app's instance was ended, with nothing that its head does not have.
func (l *ledger) evicted(app instance.App, why string) error {
	var former instance.Instance
	return l.commit(func(now time.Time) ([]instance.Record, error) {
		was, err := l.model.App(app)
		if err != nil {
			return nil, err
		}
		former = was
		return one(l.model.Evict(now, app, why))
	}, func(now time.Time) { _, _ = l.model.Branch(now, app, former.Head, former.Handle) })
}

// surplus lists the checkpoints that nothing needs but the wish to go back, oldest first.
func (l *ledger) surplus() []instance.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Surplus()
}

// count is how many apps there are.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Known()
}

// live is how many apps have an instance.
func (l *ledger) live() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Live()
}

// discarded strikes a checkpoint off.
func (l *ledger) discarded(app instance.App, id instance.ID, why string) error {
	return l.commit(func(now time.Time) ([]instance.Record, error) {
		_, r, err := l.model.Discard(now, app, id, why)
		return one(r, err)
	}, nil)
}
