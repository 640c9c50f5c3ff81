package binder

import (
	"context"
	"errors"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// What is done for one app. These run one at a time for each.

// serve gives the app its instance.
func (g *Gate) serve(a *app) {
	in, err := g.cfg.Monitor.Instance(g.ctx, a.name)
	g.install(a, in, err, "cannot give it an instance")
}

// crashed replaces the app's instance, unless that is another by now.
func (g *Gate) crashed(a *app, in engine.Instance) {
	if g.instance(a) != in {
		return
	}
	rep, err := g.cfg.Monitor.Crashed(g.ctx, a.name, in.Exit(), nil)
	g.install(a, rep.Instance, err, "cannot replace its instance, which has crashed")
}

// install routes the app to in, or turns it away if there was an error.
func (g *Gate) install(a *app, in engine.Instance, err error, failure string) {
	if err != nil {
		in = nil
		if !errors.Is(err, gate.ErrQuarantined) && !errors.Is(err, gate.ErrStopped) && g.ctx.Err() == nil {
			g.log(a).WithError(err).Error(failure)
		}
	}
	g.mu.Lock()
	a.inst = in
	g.mu.Unlock()
	g.route(a)
}

func (g *Gate) instance(a *app) engine.Instance {
	g.mu.Lock()
	defer g.mu.Unlock()
	return a.inst
}

// route tells the engine where the app's transactions go. That begins a new count of them, and lets those that wait for a
// checkpoint go on.
func (g *Gate) route(a *app) {
	err := g.cfg.Engine.Route(a.key, g.instance(a), g.every)
	if err != nil && !errors.Is(err, engine.ErrGone) {
		g.log(a).WithError(err).Error("cannot route it")
	}
}

// checkpoint captures the app's instance by policy. When it is due by number, its further transactions wait until then.
func (g *Gate) checkpoint(a *app, trigger spec.CheckpointMode) {
	if g.instance(a) == nil {
		return
	}
	resumed := trigger != spec.CheckpointEvery
	resume := func() {
		if !resumed {
			resumed = true
			g.route(a)
		}
	}
	err := g.capture(a.name, string(trigger), resume)
	if err != nil && g.ctx.Err() == nil {
		g.log(a).WithError(err).Warn("no checkpoint; it goes on without")
	}
	resume()
}

func (g *Gate) capture(name instance.App, trigger string, resume func()) error {
	if m, ok := g.cfg.Monitor.(gate.EarlyMonitor); ok {
		return m.CheckpointEarly(g.ctx, name, trigger, nil, resume)
	}
	return g.cfg.Monitor.Checkpoint(g.ctx, name, trigger, nil)
}

// Hold implements gate.Gate. The engine makes every change between two transactions by itself.
func (g *Gate) Hold(ctx context.Context, name instance.App, fn func(context.Context, gate.Held) (gate.Replacement, error)) error {
	g.mu.Lock()
	a := g.apps[name]
	g.mu.Unlock()
	if a == nil {
		return gate.ErrUnknownApp
	}
	done := make(chan error, 1)
	g.submit(a, func() {
		if err := ctx.Err(); err != nil {
			done <- context.Cause(ctx)
			return
		}
		rep, err := fn(ctx, gate.Held{Instance: g.instance(a)})
		if err == nil && rep.Instance != nil {
			g.install(a, rep.Instance, nil, "")
		}
		done <- err
	})
	return <-done
}

// awaitEnd tells the monitor when the app can never come back.
func (g *Gate) awaitEnd(a *app, leaves departures) {
	defer g.work.Done()
	if !leaves.awaitEnd(g.ctx, a.name) {
		return
	}
	g.submit(a, func() {
		g.mu.Lock()
		a.inst = nil
		delete(g.apps, a.name)
		delete(g.keys, a.key)
		g.mu.Unlock()
		g.route(a)
		if err := g.cfg.Monitor.Left(g.ctx, a.name); err != nil {
			g.log(a).WithError(err).Error("what it leaves behind cannot be cleared away")
		}
	})
}
