package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/runtime/gate/socket"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// Left implements gate.Monitor. An app of which something has a tag stays on record with that, and nothing else.
func (m *Monitor) Left(_ context.Context, app instance.App) error {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	return m.takeLeave(h)
}

// takeLeave ends h's instance and discards what nobody has tagged. h.mu is held.
func (m *Monitor) takeLeave(h *holding) error {
	h.given, h.left = false, true
	m.spares.drop(h)
	var err error
	if h.inst != nil {
		if m.spares != nil {
			m.spares.learn(h.inst, m.transactions(h) > 0)
		}
		err = ignoreGone(h.inst.Kill())
		h.inst = nil
	}
	discarded, stays, e := m.ledger.left(h.app)
	if err = errors.Join(err, e); e == nil {
		err = errors.Join(err, m.free(h, discarded))
	}
	m.metrics.crashes.DeleteLabelValues(string(h.app))
	detail := ""
	if stays {
		detail = fmt.Sprintf("%d tagged checkpoints are kept", len(h.images))
	} else {
		m.mu.Lock()
		delete(m.holdings, h.app)
		m.mu.Unlock()
	}
	m.event(Event{Type: EventLeft, App: h.app, Detail: detail})
	return err
}

// free frees the images of checkpoints that the ledger has struck off.
func (m *Monitor) free(h *holding, ids []instance.ID) error {
	var errs []error
	for _, id := range ids {
		if img := h.images[id]; img != nil {
			delete(h.images, id)
			errs = append(errs, ignoreGone(img.end()))
		}
	}
	return errors.Join(errs...)
}

// departed reports whether app cannot come back to a new monitor.
func (m *Monitor) departed(app instance.App) bool {
	kind := m.svc.AppKey
	return (kind == spec.AppKeyConnection || kind == spec.AppKeyPID) && socket.Departed(app)
}

// absent is an error if app has left for good.
func (m *Monitor) absent(app instance.App) error {
	if err := m.known(app); err != nil {
		return err
	}
	h := m.find(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left {
		return fmt.Errorf("app %s: %w", app, ErrLeft)
	}
	return nil
}

// left records that app has gone for good: of its checkpoints those with a tag are kept, the rest is returned. stays
// says whether the app does, which it does for their sake.
func (l *ledger) left(app instance.App) (discarded []instance.ID, stays bool, err error) {
	err = l.commit(func(now time.Time) ([]instance.Record, error) {
		h, err := l.model.History(app)
		if errors.Is(err, instance.ErrUnknownApp) {
			return nil, nil // it left before it had anything
		}
		if err != nil {
			return nil, err
		}
		for _, c := range h.Checkpoints {
			if len(c.Tags) > 0 {
				stays = true
			} else {
				discarded = append(discarded, c.ID)
			}
		}
		if !stays {
			_, r, err := l.model.Forget(now, app)
			return one(r, err)
		}
		var records []instance.Record
		for _, id := range discarded {
			_, r, err := l.model.Discard(now, app, id, "the app has left")
			if err != nil {
				return records, err
			}
			records = append(records, r)
		}
		if h.State != instance.Gone {
			r, err := l.model.Lost(now, app, "the app has left")
			if err != nil {
				return records, err
			}
			records = append(records, r)
		}
		return records, nil
	}, nil)
	return discarded, stays, err
}
