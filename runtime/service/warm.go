package service

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
)

const (
	// firstLooks is how many instances are looked at in a row for what memory they use.
	firstLooks = 4
	// lookPause is the time between two looks after that: one takes some tenths of a millisecond.
	lookPause = time.Second
)

// warmth has spares take the page faults ahead that a first request would take.
type warmth struct {
	by    engine.Warmer // nil: this engine's instances have none
	looks atomic.Int64
	last  atomic.Int64 // when the last look was, of time.Since(Monitor.since)
}

// learn looks at what memory in uses, if it has served and it is time to. Nobody else ends it meanwhile.
func (s *spares) learn(in engine.Instance, served bool) {
	if s == nil || s.warmth.by == nil || !served {
		return
	}
	w, now := &s.warmth, int64(time.Since(s.m.since))
	if w.looks.Load() >= firstLooks && now < w.last.Load()+int64(lookPause) {
		return
	}
	w.last.Store(now)
	if err := w.by.Learn(in); err != nil {
		if !errors.Is(err, engine.ErrGone) {
			s.m.log.WithError(err).Debug("cannot tell what memory an instance uses")
		}
		return
	}
	w.looks.Add(1)
}

// warm has a new spare take faults ahead. On error the spare has been ended.
func (s *spares) warm(ctx context.Context, in engine.Instance, plumbed []engine.Plumbed) error {
	if s.warmth.by == nil {
		return nil
	}
	err := s.warmth.by.Warm(ctx, in)
	if err != nil {
		err = errors.Join(err, discardReplacement(gate.Replacement{Instance: in, Plumbed: plumbed}))
	}
	return err
}
