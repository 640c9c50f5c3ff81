package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// manual is the trigger of a checkpoint that somebody asked for.
const manual = "manual"

// checkpointNow captures app at its next transaction boundary.
func (m *Monitor) checkpointNow(ctx context.Context, app instance.App, tag string) (view CheckpointView, err error) {
	if err := m.absent(app); err != nil {
		return view, err
	}
	if tag != "" {
		if err := instance.CheckTag(tag); err != nil {
			return view, err
		}
	}
	err = m.held(ctx, app, func(ctx context.Context, h *holding, held gate.Held) (gate.Replacement, error) {
		if h.inst == nil {
			if err := m.ledger.refusal(app); err != nil {
				return gate.Replacement{}, err
			}
			return gate.Replacement{}, fmt.Errorf("app %s: %w", app, ErrNoInstance)
		}
		view, err = m.capture(ctx, h, manual, tag, held.Conns, held.Resume)
		return gate.Replacement{}, err
	})
	if err != nil {
		return view, err
	}
	// The app goes on meanwhile. That there is a checkpoint is true, whatever is known of its size.
	if err := m.compare(m.holding(app), instance.ID(view.ID)); err != nil {
		m.log.WithField("app", string(app)).WithField("checkpoint", view.ID).WithError(err).Warn("cannot count its dirty pages")
	}
	view.DirtyPages = m.ledger.dirtyPages(app, instance.ID(view.ID))
	return view, nil
}

// restore puts app back into the state that the revision to names; "" is the newest.
func (m *Monitor) restore(ctx context.Context, app instance.App, to string) (view RestoreView, err error) {
	if err := m.absent(app); err != nil {
		return view, err
	}
	start := time.Now()
	err = m.held(ctx, app, func(ctx context.Context, h *holding, held gate.Held) (gate.Replacement, error) {
		m.spares.await(h)
		id, err := m.ledger.lookup(app, to)
		if err != nil {
			return gate.Replacement{}, err
		}
		old := h.inst
		rep, err := m.succeed(ctx, h, old, id, held.Open, manual)
		if err != nil {
			return gate.Replacement{}, err
		}
		if err := m.ledger.restored(app, id, rep.Instance.Handle(), old != nil && old != rep.Instance); err != nil {
			if rep.Instance == old {
				h.inst = nil
			}
			return gate.Replacement{}, errors.Join(err, discardReplacement(rep))
		}
		h.inst = rep.Instance
		defer m.spares.want(h)
		if old != nil && old != rep.Instance {
			if err := m.spares.retire(old); err != nil {
				m.log.WithField("app", string(app)).WithError(err).Error("cannot end the instance that was rolled back")
			}
		}
		view = RestoreView{App: app, To: string(id), Connections: len(rep.Plumbed)}
		m.event(Event{Type: EventRestore, App: app, Checkpoint: string(id)})
		return rep, nil
	})
	view.TotalUS = float64(time.Since(start).Nanoseconds()) / 1e3
	return view, err
}

func (m *Monitor) known(app instance.App) error {
	_, err := m.ledger.app(app)
	return err
}

// held calls fn with app at a transaction boundary and its instance dormant. An app that this gate has never seen,
// since it has not come back after a change of monitors, is at one anyway.
func (m *Monitor) held(ctx context.Context, app instance.App, fn func(context.Context, *holding, gate.Held) (gate.Replacement, error)) error {
	h := m.holding(app)
	for {
		err := m.gate.Hold(ctx, app, func(ctx context.Context, held gate.Held) (gate.Replacement, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return fn(ctx, h, held)
		})
		if !errors.Is(err, gate.ErrUnknownApp) {
			return err
		}
		h.mu.Lock()
		if h.given {
			// It came between the two lines above: the gate knows it now.
			h.mu.Unlock()
			select {
			case <-time.After(time.Millisecond):
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if h.left {
			h.mu.Unlock()
			return fmt.Errorf("app %s: %w", app, ErrLeft)
		}
		rep, err := fn(ctx, h, gate.Held{Instance: h.inst})
		h.mu.Unlock()
		for _, p := range rep.Plumbed {
			_ = unix.Close(p.FD) // there is no connection to put it under
		}
		return err
	}
}

// signal sends sig to every instance. A dormant one gets it when it is activated.
func (m *Monitor) signal(sig unix.Signal) error {
	if one, ok := m.eng.(engine.Signaller); ok {
		return ignoreGone(one.Signal(sig))
	}
	var errs []error
	for _, h := range m.allHoldings() {
		h.mu.Lock()
		if h.inst != nil {
			if err := unix.PidfdSendSignal(h.inst.PIDFD(), sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("app %s: signal %d: %w", h.app, int(sig), err))
			}
		}
		h.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (m *Monitor) allHoldings() []*holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*holding, 0, len(m.holdings))
	for _, h := range m.holdings {
		all = append(all, h)
	}
	return all
}

// history is app's history with the present sizes of its checkpoints. The engine's handles mean nothing to others.
func (m *Monitor) history(app instance.App) (instance.History, error) {
	if err := m.known(app); err != nil {
		return instance.History{}, err
	}
	h := m.holding(app)
	h.mu.Lock()
	m.measure(h)
	h.mu.Unlock()
	if err := m.compare(h, ""); err != nil {
		return instance.History{}, err
	}
	v, err := m.ledger.history(app)
	v.Base.Handle = nil
	for i := range v.Checkpoints {
		v.Checkpoints[i].Handle = nil
	}
	return v, err
}

func (m *Monitor) view() ServiceView {
	v := ServiceView{
		ID: m.ref.ID, Annotations: m.svc.Annotations(), Engine: m.rec.Engine, PID: m.rec.PID, Monitor: os.Getpid(),
		Supervisor: os.Getppid(), Created: m.rec.Created, Since: m.since, Recovered: m.recovered, Apps: m.ledger.count(),
		Spares: m.spares.count(),
	}
	if b := m.budget; b != nil {
		v.Budget = &BudgetView{Memory: b.memory, Used: b.used.Load(), Instances: b.count, Exceeded: b.since.Load() != 0}
	}
	if mem, err := m.eng.Base().Memory(); err == nil {
		v.Base = viewMemory(mem)
	}
	return v
}

// viewApps describes every app.
func (m *Monitor) viewApps() []AppView {
	stats := map[instance.App]gate.AppStats{}
	for _, s := range m.gate.Stats() {
		stats[s.App] = s
	}
	views := []AppView{}
	for _, a := range m.ledger.apps() {
		s := stats[a.App]
		v := AppView{
			App: a.App, State: "gone", Path: m.path(), Connections: s.Connections, Direct: s.Direct, Proxied: s.Proxied, Untracked: s.Untracked,
			Led: s.Led, Unled: s.Unled,
			Switches: s.Switches, BytesIn: s.BytesIn, BytesOut: s.BytesOut, WaitingSeconds: s.Waiting.Seconds(),
			Checkpoints: a.Kept, Head: string(a.Head), Crashes: a.Crashes,
		}
		switch {
		case m.svc.Gate == spec.GateBinder: // it has paths of its own
		case s.Direct > 0 && s.Direct == s.Connections, s.Connections == 0 && m.direct() && s.Proxied == "":
			v.Path = "direct"
		case s.Direct > 0:
			v.Path = "mixed"
		}
		h := m.find(a.App)
		h.mu.Lock()
		v.Transactions, v.Spare = h.prior+s.Transactions, m.spares.has(h, a.Head)
		switch {
		case a.State == instance.Quarantined:
			v.State = "quarantined"
		case m.ledger.isStopped(&a):
			v.State = "stopped"
		case h.left:
			v.State = "left"
		case h.inst == nil && a.State == instance.Evicted:
			v.State = "evicted"
		case h.inst == nil:
		default:
			v.State, v.PID = instanceState(h.inst), h.inst.PID()
			v.Memory = h.memory()
		}
		h.mu.Unlock()
		views = append(views, v)
	}
	return views
}

// direct reports whether connections are to become direct.
func (m *Monitor) direct() bool {
	path, _ := m.svc.DirectPath()
	return path != spec.PathProxied
}

func instanceState(in engine.Instance) string {
	switch {
	case dead(in.PIDFD()):
		return "gone"
	case in.Dormant():
		return "dormant"
	}
	return "active"
}
