package kmod

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/runtime/engine"
)

const (
	// adoptPatience is how long a service may take to come to rest when it is adopted. One with a thread that never
	// waits is then parked wherever it is: its memory is consistent at any instant.
	adoptPatience = 2 * time.Second
	adoptTry      = 100 * time.Millisecond
	adoptPause    = 20 * time.Millisecond
)

// original is the record of the process as it was when it was attached.
const original uint32 = 0

// Adopt implements engine.Engine. If the engine dies meanwhile its session dies with it and the process goes on; the
// session is made to outlive the engine only when the base stands.
func (e kmodEngine) Adopt(ctx context.Context, t engine.Target) (engine.Service, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", t.PID, err)
	}
	if err := inspect(t, true); err != nil {
		return nil, err
	}
	p, err := openProcess(t.PID)
	if err != nil {
		return nil, err
	}
	s, err := e.attach(t, p)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("adopt process %d: %w", t.PID, translate(t.PID, err))
	}
	if err := s.becomeBase(ctx); err != nil {
		err = fmt.Errorf("adopt process %d: %w", t.PID, err)
		return nil, errors.Join(err, s.giveBack())
	}
	go s.follow()
	return s, nil
}

// inspect refuses what can be seen from outside.
func inspect(t engine.Target, deep bool) error {
	report, err := check.Process(t.PID, check.Options{
		Shared: t.Shared, Private: t.Private, Listeners: t.Listeners, Deep: deep, Engine: check.EngineKmod, Binder: t.Binder != nil,
	})
	if err != nil {
		return err
	}
	report.RequireListeners(t.Listeners)
	return report.Err()
}

// attach begins a session with the process, in which nothing has been done yet.
func (e kmodEngine) attach(t engine.Target, p process) (*service, error) {
	d, err := e.open()
	if err != nil {
		return nil, err
	}
	session, found, err := d.Attach(p.pidfd, false)
	if err == nil && found.Joined {
		// An engine died when it had adopted the process, before anybody took note of it.
		if err = errors.Join(session.Detach(), session.Close()); err == nil {
			session, _, err = d.Attach(p.pidfd, false)
		}
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	s := newService(t, p, session)
	s.active.Store(original)
	return s, nil
}

// becomeBase parks the service at rest and makes the base of it.
func (s *service) becomeBase(ctx context.Context) error {
	if s.gated() {
		if err := s.enableBinder(); err != nil {
			return translate(s.target.PID, err)
		}
	}
	if err := s.rest(ctx); err != nil {
		return err
	}
	s.active.Store(client.None)
	// Once more, now that it cannot change.
	if err := inspect(s.target, false); err != nil {
		return err
	}
	p, err := s.readTable(nil, nil)
	if err != nil {
		return err
	}
	s.nonce = rand.Uint64()
	c, err := s.session.Checkpoint(original, 0, s.nonce)
	if err != nil {
		return translate(s.target.PID, err)
	}
	if err := s.session.EditFDs(c.ID, closing(p)); err != nil {
		return translate(s.target.PID, err)
	}
	if err := s.session.Persist(); err != nil {
		return translate(s.target.PID, err)
	}
	s.base = &image{s: s, id: c.ID, plan: p, base: true}
	return nil
}

// rest parks the service at a transaction boundary, or wherever it is after adoptPatience.
func (s *service) rest(ctx context.Context) error {
	for deadline := time.Now().Add(adoptPatience); ; {
		err := s.session.Activate(client.None, client.Boundary, adoptTry)
		if errors.Is(err, client.ErrBusy) && time.Now().After(deadline) {
			err = s.session.Activate(client.None, 0, 0)
			return translate(s.target.PID, err)
		}
		if !errors.Is(err, client.ErrBusy) {
			return translate(s.target.PID, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(adoptPause):
		}
	}
}

// giveBack lets the process go on as if it had never been attached.
func (s *service) giveBack() error {
	err := s.session.Detach()
	if errors.Is(err, client.ErrOver) {
		err = nil // it has ended
	}
	err = errors.Join(err, s.session.Close())
	s.process.close()
	return err
}
