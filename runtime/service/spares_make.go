package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

// run makes and ends spares until ctx is done.
func (s *spares) run(ctx context.Context) {
	defer close(s.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := s.m.ledger.settle(); err != nil {
			s.m.log.WithError(err).Warn("cannot write what became of apps")
		}
		if s.mayClear(time.Now()) {
			s.clear()
		}
		h, ofBase, wait := s.next(time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case h != nil || ofBase:
			s.make(ctx, h)
			continue
		case wait < 0:
			timer.Stop()
		default:
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// mayClear reports whether it is time to end what is not needed any more: not at once, and not while few spares of the base are
// left and more can be made, unless it is much.
func (s *spares) mayClear(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.retired)+len(s.stale) >= maxRetired/2:
		return true
	case len(s.pool) < s.base && len(s.pool) <= s.base/4 && !now.Before(s.resting) && !now.Before(s.baseDue):
		return false
	}
	return len(s.retired) == 0 || !now.Before(s.endDue)
}

// next says what to make now, or how long to wait; negative: until there is something new.
func (s *spares) next(now time.Time) (h *holding, ofBase bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = -1
	sooner := func(at time.Time) bool {
		left := max(at.Sub(now), s.resting.Sub(now), 0)
		if wait < 0 || left < wait {
			wait = left
		}
		return left == 0
	}
	if len(s.pool) < s.base && sooner(s.baseDue) {
		return nil, true, 0
	}
	if left := max(s.endDue.Sub(now), 0); len(s.retired) > 0 && (wait < 0 || left < wait) {
		wait = left
	}
	for x, at := range s.due {
		if sooner(at) {
			delete(s.due, x)
			return x, false, 0
		}
	}
	return nil, false, wait
}

// make makes one spare, for h or, if that is nil, of the base.
func (s *spares) make(ctx context.Context, h *holding) {
	if !s.roomy() {
		s.rest(h)
		return
	}
	var err error
	start := time.Now()
	if h == nil {
		err = s.makeBase(ctx)
	} else {
		err = s.makeFor(ctx, h)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.m.log.WithError(err).Debug("no spare instance could be made")
		}
		s.rest(h)
		return
	}
	s.mu.Lock()
	s.cost = time.Since(start)
	s.mu.Unlock()
}

// rest puts off all spares, h's among them.
func (s *spares) rest(h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resting = time.Now().Add(spareRetry)
	if h != nil {
		s.due[h] = s.resting
	}
}

func (s *spares) makeBase(ctx context.Context) error {
	in, plumbed, err := s.m.eng.Branch(ctx, s.m.eng.Base(), nil)
	if err != nil {
		return fmt.Errorf("spare of the base: %w", err)
	}
	if err := s.warm(ctx, in, plumbed); err != nil {
		return fmt.Errorf("spare of the base: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool = append(s.pool, &spare{inst: in, plumbed: plumbed, from: instance.Base, handle: in.Handle()})
	return nil
}

// makeFor makes a spare of the checkpoint that h's app is at. h.mu is not held meanwhile: nobody waits for it.
func (s *spares) makeFor(ctx context.Context, h *holding) error {
	h.mu.Lock()
	id := s.m.ledger.head(h.app)
	img := h.images[id]
	if h.left || h.inst == nil || img == nil || h.spare != nil {
		h.mu.Unlock()
		return nil // it will be wanted again when that has changed
	}
	s.learn(h.inst, s.m.transactions(h) > 0)
	made := make(chan struct{})
	h.making = made
	img.pinned = true
	h.mu.Unlock()

	in, plumbed, err := s.m.eng.Branch(ctx, img.Image, img.conns)
	if err == nil {
		err = s.warm(ctx, in, plumbed)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.making = nil
	close(made)
	img.pinned = false
	var freed error
	if img.dropped {
		freed = ignoreGone(img.Discard())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("app %s: spare of %s: %w", h.app, id, err), freed)
	}
	x := &spare{inst: in, plumbed: plumbed, from: id, handle: in.Handle()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.left || h.inst == nil || img.dropped || s.m.ledger.head(h.app) != id {
		s.stale = append(s.stale, x)
		return freed
	}
	h.spare = x
	s.owners = append(s.owners, h)
	return nil
}

// clear ends what is not needed any more.
func (s *spares) clear() {
	s.mu.Lock()
	stale := s.stale
	s.stale = nil
	var first *holding
	if len(s.owners) > maxAppSpares {
		first = s.owners[0]
	}
	s.mu.Unlock()
	for _, x := range stale {
		if err := x.end(); err != nil {
			s.m.log.WithError(err).Error("cannot clear away a spare instance")
		}
	}
	if err := s.endRetired(); err != nil {
		s.m.log.WithError(err).Error("cannot clear away a former instance")
	}
	if first != nil && first.mu.TryLock() {
		s.drop(first)
		first.mu.Unlock()
	}
}

func (s *spares) endRetired() error {
	s.mu.Lock()
	retired := s.retired
	s.retired = nil
	s.mu.Unlock()
	var errs []error
	for _, in := range retired {
		s.learn(in, true)
		errs = append(errs, ignoreGone(in.Kill()))
	}
	return errors.Join(errs...)
}
