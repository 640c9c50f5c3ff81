package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

var _ gate.Monitor = (*Monitor)(nil)

// holding returns app's holding and makes one for a new app.
func (m *Monitor) holding(app instance.App) *holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.holdings[app]
	if h == nil {
		h = &holding{app: app, images: map[instance.ID]*heldImage{}}
		m.holdings[app] = h
	}
	return h
}

// find returns app's holding, or for one that has just left an empty one that nobody else has.
func (m *Monitor) find(app instance.App) *holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.holdings[app]; h != nil {
		return h
	}
	return &holding{app: app, images: map[instance.ID]*heldImage{}}
}

// Instance implements gate.Monitor.
func (m *Monitor) Instance(ctx context.Context, app instance.App) (engine.Instance, error) {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := m.ledger.refusal(app); err != nil {
		return nil, err
	}
	h.given = true
	if h.inst != nil {
		if !dead(h.inst.PIDFD()) {
			return h.inst, nil
		}
		// It died while the gate did not have it; nobody's request is lost by that.
		if err := m.dropInstance(h); err != nil {
			return nil, err
		}
	}
	m.spares.await(h)
	rep, err := m.firstInstance(ctx, h, nil)
	return rep.Instance, err
}

// dropInstance ends h's instance and strikes it off the ledger.
func (m *Monitor) dropInstance(h *holding) error {
	in := h.inst
	h.inst = nil
	return errors.Join(ignoreGone(in.Kill()), m.ledger.lostInstance(h.app, "it died while it was not used"))
}

// image returns the engine's image of checkpoint id, or of the base.
func (m *Monitor) image(h *holding, id instance.ID) (*heldImage, bool) {
	if id == instance.Base {
		// Connections never reach the base: none can be foreign.
		return &heldImage{Image: m.eng.Base()}, true
	}
	img, ok := h.images[id]
	return img, ok
}

// branchNewest gives old, or nil, a successor in the newest state of h's app that is left, and names that. A checkpoint
// whose process has died is struck off and the one before it taken.
func (m *Monitor) branchNewest(ctx context.Context, h *holding, old engine.Instance, keep []engine.ConnID) (gate.Replacement, instance.ID, error) {
	for {
		id := m.ledger.head(h.app)
		rep, err := m.succeed(ctx, h, old, id, keep, "newest")
		if err == nil || id == instance.Base || !errors.Is(err, engine.ErrGone) {
			return rep, id, err
		}
		m.event(Event{Type: EventLost, App: h.app, Checkpoint: string(id)})
		if img := h.images[id]; img != nil {
			delete(h.images, id)
			err = ignoreGone(img.end())
		} else {
			err = nil
		}
		if err = errors.Join(err, m.ledger.lostCheckpoint(h.app, id)); err != nil {
			return gate.Replacement{}, id, err
		}
	}
}

// rewinds says that an instance stays the same one, to those who hold references to its objects, when it is put into
// another state.
func (m *Monitor) rewinds() (engine.BinderService, bool) {
	s, ok := m.eng.(engine.BinderService)
	return s, ok && m.inDriver()
}

// rewindTries is how often a Rewind is begun while other apps' transactions go on without an end.
const rewindTries = 3

// succeed returns what takes the place of old, which may be nil, in state id: a new instance, or old itself.
func (m *Monitor) succeed(ctx context.Context, h *holding, old engine.Instance, id instance.ID, keep []engine.ConnID, reason string) (gate.Replacement, error) {
	eng, ok := m.rewinds()
	if !ok || old == nil {
		return m.branch(ctx, h, id, keep, reason)
	}
	img, ok := m.image(h, id)
	if !ok {
		return gate.Replacement{}, fmt.Errorf("app %s: checkpoint %s: %w", h.app, id, engine.ErrGone)
	}
	start := time.Now()
	err := eng.Rewind(ctx, old, img.Image)
	for try := 1; errors.Is(err, engine.ErrBusy) && try < rewindTries; try++ {
		err = eng.Rewind(ctx, old, img.Image)
	}
	if err != nil {
		return gate.Replacement{}, fmt.Errorf("app %s: back to %s: %w", h.app, id, err)
	}
	m.metrics.branched(reason, time.Since(start))
	return gate.Replacement{Instance: old}, nil
}

// branch makes a new instance in state id under the connections keep, as far as they exist in that state.
func (m *Monitor) branch(ctx context.Context, h *holding, id instance.ID, keep []engine.ConnID, reason string) (gate.Replacement, error) {
	img, ok := m.image(h, id)
	if !ok {
		return gate.Replacement{}, fmt.Errorf("app %s: checkpoint %s: %w", h.app, id, engine.ErrGone)
	}
	if img.foreign {
		keep = nil
	}
	start := time.Now()
	if x := m.spares.take(h, id); x != nil {
		m.metrics.branched(reason, time.Since(start))
		return x.give(keep), nil
	}
	in, plumbed, err := m.eng.Branch(ctx, img.Image, keep)
	if err != nil && !errors.Is(err, engine.ErrGone) && m.spares.yield() {
		in, plumbed, err = m.eng.Branch(ctx, img.Image, keep)
	}
	for err != nil && errors.Is(m.nameLimit(ctx, err), ErrLimit) && m.budget.makeRoom(ctx) {
		in, plumbed, err = m.eng.Branch(ctx, img.Image, keep)
	}
	if err = m.nameLimit(ctx, err); err != nil {
		return gate.Replacement{}, fmt.Errorf("app %s: branch from %s: %w", h.app, id, err)
	}
	m.metrics.branched(reason, time.Since(start))
	return gate.Replacement{Instance: in, Plumbed: plumbed}, nil
}

// discardReplacement ends an instance that nobody has got yet.
func discardReplacement(rep gate.Replacement) error {
	for _, p := range rep.Plumbed {
		_ = unix.Close(p.FD)
	}
	return ignoreGone(rep.Instance.Kill())
}

// Checkpoint implements gate.Monitor.
func (m *Monitor) Checkpoint(ctx context.Context, app instance.App, trigger string, conns engine.Conns) error {
	return m.CheckpointEarly(ctx, app, trigger, conns, nil)
}

// CheckpointEarly implements gate.EarlyMonitor. What happens to the app after resume has to wait for h.mu, until the
// checkpoint is on record.
func (m *Monitor) CheckpointEarly(ctx context.Context, app instance.App, trigger string, conns engine.Conns, resume func()) error {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inst == nil {
		return fmt.Errorf("app %s: %w", app, ErrNoInstance)
	}
	_, err := m.capture(ctx, h, trigger, "", conns, resume)
	return err
}

// snapshot has the engine capture in, and calls resume, unless that is nil, if in may be activated before the end.
func (m *Monitor) snapshot(ctx context.Context, in engine.Instance, conns engine.Conns, resume func()) (engine.Captured, error) {
	if e, ok := m.eng.(engine.EarlyCheckpointer); ok {
		return e.CheckpointEarly(ctx, in, conns, resume)
	}
	img, timing, err := m.eng.Checkpoint(ctx, in, conns)
	if err != nil {
		return engine.Captured{}, err
	}
	return engine.Captured{Image: img, Instance: in.Handle(), Timing: timing}, nil
}

// capture takes a checkpoint of h's instance, which is dormant. When it returns, the checkpoint is on record; the
// instance may have been resumed long before.
func (m *Monitor) capture(ctx context.Context, h *holding, trigger, tag string, conns engine.Conns, resume func()) (CheckpointView, error) {
	transactions := m.transactions(h) // while none is under way
	resumed := false
	in := h.inst
	var used time.Duration
	goOn := func() {
		resumed = true
		used = cpuTime(in)
		if resume != nil {
			resume()
		}
	}
	taken, err := m.snapshot(ctx, h.inst, conns, goOn)
	if err != nil && !resumed && !errors.Is(err, engine.ErrGone) && !errors.Is(err, engine.ErrRefused) && m.spares.yield() {
		taken, err = m.snapshot(ctx, h.inst, conns, goOn)
	}
	if err = m.nameLimit(ctx, err); err != nil {
		return CheckpointView{}, fmt.Errorf("app %s: %w", h.app, err)
	}
	if !resumed {
		used = cpuTime(in)
	}
	img, timing := taken.Image, taken.Timing
	id, surplus, err := m.ledger.checkpointed(h.app, instance.Captured{
		Trigger: trigger, Transactions: transactions, Handle: img.Handle(),
	}, tag, taken.Instance)
	if err != nil {
		return CheckpointView{}, errors.Join(err, ignoreGone(img.Discard()))
	}
	h.size, h.still = sized{}, still{in, id, used}
	h.images[id] = &heldImage{Image: img, conns: slices.Collect(maps.Values(conns))}
	m.spares.want(h)
	m.wantCompaction(h)
	m.metrics.tookCheckpoint(trigger, timing)
	m.event(Event{Type: EventCheckpoint, App: h.app, Checkpoint: string(id), Detail: trigger})
	m.discard(h, surplus)
	if m.svc.HistoryBytes > 0 {
		go m.enforceBytes(h)
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return CheckpointView{
		App: h.app, ID: string(id), Tag: tag, CaptureUS: us(timing.Capture), ForkUS: us(timing.Fork), PauseUS: us(timing.Paused()),
		TotalUS: us(timing.Total),
	}, nil
}

// discard frees checkpoints that the ledger has already struck off.
func (m *Monitor) discard(h *holding, ids []instance.ID) {
	for _, id := range ids {
		img := h.images[id]
		if img == nil {
			continue
		}
		delete(h.images, id)
		h.size = sized{}
		if err := ignoreGone(img.end()); err != nil {
			m.log.WithField("app", string(h.app)).WithField("checkpoint", string(id)).WithError(err).Error("cannot free a discarded checkpoint")
		}
		m.metrics.discards.Inc()
		m.event(Event{Type: EventDiscard, App: h.app, Checkpoint: string(id)})
	}
}

// Crashed implements gate.Monitor.
func (m *Monitor) Crashed(ctx context.Context, app instance.App, exit engine.Exit, open []engine.ConnID) (gate.Replacement, error) {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	m.spares.await(h)
	return m.replace(ctx, h, exit, open)
}

// replace counts a crash of h's instance and returns what takes its place. h.mu is held.
func (m *Monitor) replace(ctx context.Context, h *holding, exit engine.Exit, open []engine.ConnID) (gate.Replacement, error) {
	app := h.app
	defer m.spares.nudge()
	m.metrics.crashes.WithLabelValues(string(app)).Inc()
	m.event(Event{Type: EventCrash, App: app, Detail: describeExit(exit)})
	former := h.inst
	h.inst = nil
	end := func() {
		if former == nil {
			return
		}
		if err := m.spares.retire(former); err != nil {
			m.log.WithField("app", string(app)).WithError(err).Error("cannot clear away the crashed instance")
		}
		former = nil
	}
	if _, ok := m.rewinds(); !ok {
		end()
	}
	defer func() {
		if h.inst == nil {
			end()
		}
	}()
	if err := m.ledger.crashed(app, exit, m.transactions(h)); err != nil {
		return gate.Replacement{}, err
	}
	if err := m.refused(h, m.ledger.refusal(app)); err != nil {
		return gate.Replacement{}, err
	}
	rep, from, err := m.branchNewest(ctx, h, former, open)
	if err != nil {
		return gate.Replacement{}, err
	}
	if err := m.ledger.branched(app, from, rep.Instance.Handle()); err != nil {
		former = nil // it is the replacement, or has been ended
		return gate.Replacement{}, errors.Join(err, discardReplacement(rep))
	}
	h.inst, h.given = rep.Instance, true
	m.spares.want(h)
	m.replacedEvent(h, from, rep)
	return rep, nil
}

// transactions is how many requests of h's app have been answered, ever.
func (m *Monitor) transactions(h *holding) uint64 {
	n := h.prior
	if c, ok := m.gate.(gate.TransactionCounter); ok {
		return n + c.Transactions(h.app)
	}
	for _, s := range m.gate.Stats() {
		if s.App == h.app {
			n += s.Transactions
		}
	}
	return n
}

func describeExit(e engine.Exit) string {
	if e.Signal != 0 {
		return "killed by " + unix.SignalName(unix.Signal(e.Signal))
	}
	return fmt.Sprintf("exit code %d", e.Code)
}
