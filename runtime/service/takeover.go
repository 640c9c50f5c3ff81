package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

const (
	settleTime  = 2 * time.Millisecond // for an instance to notice that its old connections have ended
	settleLimit = 50 * time.Millisecond
)

// takeOver serves on what a monitor that died had adopted.
func (m *Monitor) takeOver(ctx context.Context, output *os.File) error {
	l := m.ref.layout()
	rec, err := l.load()
	if err != nil {
		return err
	}
	m.rec, m.svc, m.outside = rec, &rec.Service, Outside(m.box, &rec.Service)
	if output == nil && rec.Output {
		if output, err = reopenOutput(rec.PID); err != nil {
			return err
		}
	}
	if m.output, err = collect(l.output(), output, m.log); err != nil {
		return err
	}
	eng, err := pickEngine(rec.Engine)
	if err != nil {
		return err
	}
	if m.ledger, err = openLedger(l.journal(), m.svc); err != nil {
		return err
	}
	if rec.Broker != nil {
		if err := m.resumeBroker(); err != nil {
			return errors.Join(fmt.Errorf("broker: %w", err), m.ledger.close())
		}
	}
	if m.eng, err = eng.Recover(ctx, m.target(rec.PID, rec.Listeners), rec.State); err != nil {
		err = fmt.Errorf("take over process %d: %w", rec.PID, err)
		if errors.Is(err, engine.ErrGone) {
			err = fmt.Errorf("%w; the service has ended: delete it", err)
		}
		return errors.Join(err, m.ledger.close())
	}
	for _, app := range m.ledger.apps() {
		if err := m.reopen(ctx, app.App); err != nil {
			return errors.Join(err, m.eng.Close(), m.ledger.close())
		}
	}
	if sweeper, ok := m.eng.(engine.Sweeper); ok {
		// What is left over costs memory and nothing else: a failure to end it is no reason not to serve.
		if err := sweeper.Sweep(); err != nil {
			m.log.WithError(err).Warn("the last monitor's unfinished work could not be ended")
		}
	}
	return nil
}

// reopen finds the instance and the checkpoints of one app again. Those that are gone are struck off the ledger; the
// app then gets the newest state that is left when it is next heard of.
func (m *Monitor) reopen(ctx context.Context, app instance.App) error {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	known, err := m.ledger.app(app)
	if err != nil {
		return err
	}
	history, err := m.ledger.history(app)
	if err != nil {
		return err
	}
	if !m.inDriver() { // there the engine goes on counting
		h.prior = known.Transactions
	}
	for _, c := range history.Checkpoints {
		id := c.ID
		img, err := m.eng.OpenImage(ctx, c.Handle)
		switch {
		case err == nil:
			h.images[id] = &heldImage{Image: img, foreign: true}
		case errors.Is(err, engine.ErrGone):
			if err := m.ledger.lostCheckpoint(app, id); err != nil {
				return err
			}
			m.event(Event{Type: EventLost, App: app, Checkpoint: string(id)})
		default:
			return fmt.Errorf("app %s: checkpoint %s: %w", app, id, err)
		}
	}
	if m.departed(app) {
		if known.State.Live() {
			if h.inst, err = m.eng.OpenInstance(ctx, known.Handle); err != nil && !errors.Is(err, engine.ErrGone) {
				return fmt.Errorf("app %s: instance: %w", app, err)
			}
		}
		if m.connected(h.inst) {
			return settle(h.inst)
		}
		return m.takeLeave(h)
	}
	if !known.State.Live() {
		return nil
	}
	in, err := m.eng.OpenInstance(ctx, known.Handle)
	if errors.Is(err, engine.ErrGone) {
		const why = "it died while there was no monitor"
		m.log.WithField("app", app).WithError(err).Warn("an app's instance is lost")
		m.event(Event{Type: EventLost, App: app, Detail: why})
		return m.ledger.lostInstance(app, why)
	}
	if err != nil {
		return fmt.Errorf("app %s: instance: %w", app, err)
	}
	h.inst = in
	if m.inDriver() {
		return nil // it has no connections to a monitor
	}
	return settle(in)
}

// connected reports whether in, which may be nil, has connections that go past the gate. They outlive a monitor.
func (m *Monitor) connected(in engine.Instance) bool {
	h, ok := in.(engine.SocketHolder)
	if !ok || !m.direct() {
		return false
	}
	list, err := h.AcceptedSockets()
	return err == nil && len(list) > 0
}

// settle lets a dormant instance run for a moment, alone, to notice that the connections of the dead monitor have
// ended: with them it could not be captured.
func settle(in engine.Instance) error {
	if err := in.Activate(); err != nil {
		return ignoreGone(err)
	}
	time.Sleep(settleTime)
	err := in.Park(settleLimit)
	if errors.Is(err, engine.ErrBusy) {
		err = in.Park(0)
	}
	return ignoreGone(err)
}
