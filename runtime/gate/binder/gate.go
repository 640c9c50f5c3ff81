// Package binder is the gate before services that apps call through Binder, on engines that stand in the driver themselves.
//
// No transaction passes through this process. The engine holds each one in its sender until the instance that it is for is
// active; the gate only tells it which instance that is. It is asked when an app comes for the first time, and told when
// an instance has crashed or a checkpoint is due. What concerns one app is done in its order by one goroutine at a time,
// and different apps do not wait for each other.
package binder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// Config is what a Gate needs. All but Bound is required.
type Config struct {
	Service *spec.Service
	Engine  engine.BinderService
	Monitor gate.Monitor
	Log     *logrus.Entry
	Bound   func() // called once the gate answers
}

// Gate implements gate.Gate.
type Gate struct {
	cfg   Config
	names names
	every int // transactions between checkpoints; 0: not by their number
	ctx   context.Context
	work  sync.WaitGroup

	mu   sync.Mutex
	apps map[instance.App]*app
	keys map[uint64]*app
}

var _ gate.Gate = (*Gate)(nil)

// app is one that has called, or been called for. Fields are guarded by the gate's mu.
type app struct {
	name  instance.App
	key   uint64
	inst  engine.Instance // nil: it is not served
	queue []func()
	busy  bool // a goroutine works on the queue
	// checkpointed is the number of its transactions at the last checkpoint by interval.
	checkpointed uint64
}

// New makes a gate. The error says what is wrong with the declaration.
func New(cfg Config) (*Gate, error) {
	n, err := newNames(cfg.Service.AppKey)
	if err != nil {
		return nil, err
	}
	g := &Gate{cfg: cfg, names: n, ctx: context.Background(), apps: map[instance.App]*app{}, keys: map[uint64]*app{}}
	if cfg.Service.Checkpoint.Mode == spec.CheckpointEvery {
		g.every = cfg.Service.Checkpoint.N
	}
	return g, nil
}

// Key is what the engine has to name apps by.
func Key(k spec.AppKey) (engine.BinderKey, error) {
	switch k {
	case spec.AppKeyUID:
		return engine.BinderUID, nil
	case spec.AppKeyPID:
		return engine.BinderPID, nil
	case spec.AppKeyCgroup:
		return engine.BinderCgroup, nil
	}
	return "", fmt.Errorf("app key %q: Binder has no connections; way out: uid, pid or cgroup", k)
}

// Serve implements gate.Gate.
func (g *Gate) Serve(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer g.work.Wait()
	defer end()
	g.ctx = ctx
	if err := g.takeUp(); err != nil {
		return err
	}
	if p := g.cfg.Service.Checkpoint; p.Mode == spec.CheckpointInterval {
		g.work.Add(1)
		go g.atIntervals(p.Interval)
	}
	if g.cfg.Bound != nil {
		g.cfg.Bound()
	}
	for {
		events, err := g.cfg.Engine.BinderEvents(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, engine.ErrGone):
			<-ctx.Done() // the monitor sees that the service has ended, and why
			return nil
		case err != nil:
			return fmt.Errorf("events of the engine: %w", err)
		}
		for i := range events {
			g.handle(&events[i])
		}
	}
}

// takeUp routes the apps that an earlier gate has served, which may have waited since.
func (g *Gate) takeUp() error {
	routes, err := g.cfg.Engine.Routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		if !r.Routed && !r.Wanted {
			continue
		}
		if a := g.find(r.Key); a != nil {
			g.submit(a, func() { g.serve(a) })
		}
	}
	return nil
}

// find returns the app that the key names, and meets it if it is new; nil if nobody can have that name any more.
func (g *Gate) find(key uint64) *app {
	g.mu.Lock()
	a := g.keys[key]
	g.mu.Unlock()
	if a != nil {
		return a
	}
	name, err := g.names.of(key)
	if err != nil {
		g.cfg.Log.WithError(err).WithField("key", key).Warn("a caller cannot be named: its transactions fail")
		if err := g.cfg.Engine.Route(key, nil, 0); err != nil {
			g.cfg.Log.WithError(err).Error("cannot turn a caller away")
		}
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a = &app{name: name, key: key}
	g.apps[name], g.keys[key] = a, a
	if leaves, ok := g.names.(departures); ok {
		g.work.Add(1)
		go g.awaitEnd(a, leaves)
	}
	return a
}

func (g *Gate) handle(e *engine.BinderEvent) {
	switch e.Type {
	case engine.BinderWanted:
		if a := g.find(e.Key); a != nil {
			g.submit(a, func() { g.serve(a) })
		}
	case engine.BinderDue:
		if a := g.find(e.Key); a != nil {
			g.submit(a, func() { g.checkpoint(a, spec.CheckpointEvery) })
		}
	case engine.BinderCrash:
		if a := g.owner(e.Instance); a != nil {
			g.submit(a, func() { g.crashed(a, e.Instance) })
		}
	}
}

func (g *Gate) owner(in engine.Instance) *app {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.apps {
		if a.inst == in {
			return a
		}
	}
	return nil
}

// submit has f called after what was submitted for a before.
func (g *Gate) submit(a *app, f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a.queue = append(a.queue, f)
	if !a.busy {
		a.busy = true
		g.work.Add(1)
		go g.workOn(a)
	}
}

func (g *Gate) workOn(a *app) {
	defer g.work.Done()
	for {
		g.mu.Lock()
		if len(a.queue) == 0 {
			a.busy, a.queue = false, nil
			g.mu.Unlock()
			return
		}
		f := a.queue[0]
		a.queue = a.queue[1:]
		g.mu.Unlock()
		f()
	}
}

func (g *Gate) log(a *app) *logrus.Entry { return g.cfg.Log.WithField("app", string(a.name)) }

// Stats implements gate.Gate.
func (g *Gate) Stats() []gate.AppStats {
	routes, err := g.cfg.Engine.Routes()
	if err != nil {
		return nil // the service has ended
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []gate.AppStats
	for _, r := range routes {
		if a := g.keys[r.Key]; a != nil {
			list = append(list, gate.AppStats{App: a.name, Transactions: r.Transactions})
		}
	}
	slices.SortFunc(list, func(a, b gate.AppStats) int { return strings.Compare(string(a.App), string(b.App)) })
	return list
}

// atIntervals has those apps captured that have called since the last time.
func (g *Gate) atIntervals(every time.Duration) {
	defer g.work.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		for _, s := range g.Stats() {
			g.mu.Lock()
			a := g.apps[s.App]
			due := a != nil && a.inst != nil && a.checkpointed != s.Transactions && len(a.queue) == 0
			if due {
				a.checkpointed = s.Transactions
			}
			g.mu.Unlock()
			if due {
				g.submit(a, func() { g.checkpoint(a, spec.CheckpointInterval) })
			}
		}
	}
}
