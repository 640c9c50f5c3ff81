package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// captureLimit is how long an instance that others wait for may be looked at until nothing is under way in it.
const captureLimit = 2 * time.Second

// Hold implements gate.Gate.
func (b *Broker) Hold(ctx context.Context, key instance.App, fn func(context.Context, gate.Held) (gate.Replacement, error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.apps[key]
	if a == nil {
		return fmt.Errorf("app %s: %w", key, gate.ErrUnknownApp)
	}
	if err := b.take(ctx, a, true); err != nil {
		return err
	}
	return b.alone(a, func(resume func()) error {
		held := gate.Held{Instance: a.inst, Conns: engine.Conns{}, Resume: resume}
		rep, err := fn(ctx, held)
		if err != nil || rep.Instance == nil {
			return err
		}
		return b.set(a, rep.Instance)
	})
}

// alone calls f while the instance, which the caller has taken, is dormant and at a boundary, and gives the app back. f may
// call resume to give it back before. mu is held, but not while f runs.
func (b *Broker) alone(a *app, f func(resume func()) error) error {
	if a.inst != nil {
		if err := b.boundary(a); err != nil {
			b.give(a)
			if errors.Is(err, engine.ErrGone) {
				return fmt.Errorf("app %s: %w", a.key, err)
			}
			return err
		}
	}
	a.capturing = true
	var once sync.Once
	b.mu.Unlock()
	err := f(func() {
		once.Do(func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.give(a)
		})
	})
	b.mu.Lock()
	a.capturing = false
	once.Do(func() { b.give(a) })
	a.changed.Broadcast()
	return err
}

// boundary parks the instance where nothing is under way in it. If that takes too long it is parked where it is: the engine refuses
// to capture it then, if it has to.
func (b *Broker) boundary(a *app) error {
	for begun := time.Now(); ; {
		if err := b.rest(a); err != nil {
			return err
		}
		in := a.inst
		p, ok := in.(engine.BrokeredInstance)
		if !ok {
			return nil
		}
		b.mu.Unlock()
		idle, err := p.BrokerIdle()
		if err == nil && !idle && time.Since(begun) < captureLimit {
			// It may not run beside others for long; that it does so at all is no harm, as no transaction is under way in it.
			if err = in.Activate(); err == nil {
				time.Sleep(time.Millisecond)
			}
		}
		b.mu.Lock()
		if err != nil {
			return err
		}
		if idle || time.Since(begun) >= captureLimit {
			return nil
		}
	}
}

// due has a checkpoint taken if the policy says so, before the app's next transaction. mu is held.
func (b *Broker) due(a *app) {
	p := b.cfg.Service.Checkpoint
	var trigger string
	switch p.Mode {
	case spec.CheckpointEvery:
		if a.since < p.N {
			return
		}
		trigger = string(spec.CheckpointEvery)
	case spec.CheckpointInterval:
		if rest := p.Interval - time.Since(a.captured); rest > 0 {
			b.dueIn(a, rest)
			return
		}
		trigger = string(spec.CheckpointInterval)
	default:
		return
	}
	a.since, a.captured = 0, time.Now()
	a.wanted++ // until the checkpoint has taken the app: nobody comes between
	b.spawn(func() { b.checkpoint(a, trigger) })
	if b.closed {
		a.wanted--
	}
}

// dueIn looks again when the interval is over: the app may not call until then. mu is held.
func (b *Broker) dueIn(a *app, rest time.Duration) {
	if a.timed {
		return
	}
	a.timed = true
	timer := time.NewTimer(rest)
	b.spawn(func() {
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-b.ctx.Done():
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		a.timed = false
		if a.since > 0 && b.ctx.Err() == nil {
			b.due(a)
		}
	})
}

// checkpoint captures the app's instance by policy. The app goes on without it if that fails.
func (b *Broker) checkpoint(a *app, trigger string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.take(b.ctx, a, true)
	a.wanted--
	if err != nil {
		a.changed.Broadcast()
		return
	}
	if a.inst == nil {
		b.give(a)
		return
	}
	err = b.alone(a, func(resume func()) error {
		if m, ok := b.cfg.Monitor.(gate.EarlyMonitor); ok {
			return m.CheckpointEarly(b.ctx, a.key, trigger, engine.Conns{}, resume)
		}
		return b.cfg.Monitor.Checkpoint(b.ctx, a.key, trigger, engine.Conns{})
	})
	if err != nil && b.ctx.Err() == nil {
		b.logApp(a).WithError(err).Warn("no checkpoint could be taken")
	}
}
