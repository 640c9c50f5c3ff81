package socket

import (
	"context"
	"errors"
	"slices"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

// A hold is one call of Hold that waits for its boundary.
type hold struct {
	granted chan gate.Held
	failed  chan error
	given   bool
	evict   bool      // it is to end the instance, and does not wait
	calm    time.Time // until when direct connections have to be idle to go on with another instance; zero: there are none
}

// Hold waits until app is at a transaction boundary, parks its instance and calls fn, on the calling goroutine,
// while the app's requests wait, until it calls Resume or returns. Transactions that do not end are waited for no longer than 100 ms if the instance
// sleeps; one that computes is parked at any instruction after a second. If fn returns a Replacement with an Instance, the app
// goes on with that one, also when fn returns an error. It returns fn's error, gate.ErrUnknownApp, ErrClosed or ctx's.
func (g *Gate) Hold(ctx context.Context, key instance.App, fn func(context.Context, gate.Held) (gate.Replacement, error)) error {
	return g.hold(ctx, key, &hold{}, func(ctx context.Context, held gate.Held) (gate.Replacement, func(*app), error) {
		rep, err := fn(ctx, held)
		return rep, nil, err
	})
}

// hold is Hold. If fn returns a function, the loop calls that instead of going on with the app.
func (g *Gate) hold(ctx context.Context, key instance.App, h *hold, fn func(context.Context, gate.Held) (gate.Replacement, func(*app), error)) error {
	h.granted, h.failed = make(chan gate.Held, 1), make(chan error, 1)
	if !g.post(func() { g.askHold(key, h) }) {
		return ErrClosed
	}
	var held gate.Held
	select {
	case held = <-h.granted:
	case err := <-h.failed:
		return err
	case <-ctx.Done():
		g.post(func() { g.cancelHold(key, h) })
		return context.Cause(ctx)
	}
	var early *app // only the loop touches it
	resumed := false
	held.Resume = func() {
		resumed = true
		g.post(func() {
			early = g.apps[key]
			early.saving = true
			g.release(early, gate.Replacement{})
		})
	}
	rep, goOn, err := fn(ctx, held)
	if rep.Instance != nil && !h.calm.IsZero() {
		time.Sleep(time.Until(h.calm))
	}
	done := make(chan struct{})
	g.post(func() {
		switch {
		case resumed:
			early.saving = false
		case goOn != nil:
			goOn(g.apps[key])
		default:
			g.release(g.apps[key], rep)
		}
		close(done)
		g.workers.Done()
	})
	<-done
	return err
}

func (g *Gate) askHold(key instance.App, h *hold) {
	a := g.apps[key]
	switch {
	case g.ctx.Err() != nil:
		h.failed <- ErrClosed
		return
	case a == nil:
		h.failed <- gate.ErrUnknownApp
		return
	case h.evict && !g.evictable(a):
		h.failed <- errNotIdle
		return
	}
	a.holds = append(a.holds, h)
	switch a.phase {
	case phaseDown:
		g.startHold(a)
	case phaseEmpty:
		g.load(a)
	case phaseReady:
		g.wantBoundary(a)
	case phaseBusy: // it is started when the worker is done
	}
}

func (g *Gate) cancelHold(key instance.App, h *hold) {
	a := g.apps[key]
	if a == nil {
		return
	}
	if h.given { // it was granted while the caller gave up
		g.release(a, gate.Replacement{})
		g.workers.Done()
		return
	}
	a.holds = slices.DeleteFunc(a.holds, func(x *hold) bool { return x == h })
}

// wantBoundary stops a's requests until it is at a boundary.
func (g *Gate) wantBoundary(a *app) {
	if a.settleFrom == 0 {
		a.settleFrom = g.now()
		g.settling = append(g.settling, a)
	}
}

func (g *Gate) wantCheckpoint(a *app, trigger string) {
	a.due = trigger
	g.wantBoundary(a)
}

// settle looks whether a has reached the boundary that somebody waits for.
func (g *Gate) settle(a *app) {
	if a.phase != phaseReady || a.settleFrom == 0 || a.saving {
		return
	}
	if a.due == "" && len(a.holds) == 0 { // the caller of Hold has given up
		g.unsettle(a)
		return
	}
	waited := g.now() - a.settleFrom
	if waited > settleLimit {
		g.giveUpOn(a)
	}
	if a.inst.Dormant() && a.open > 0 { // broken into: it has to reach the boundary in a turn of its own
		g.rouse(a)
		g.clock.set(&a.alarms, alarmSettle, g.now()+settleRetry)
		return
	}
	if !a.inst.Dormant() && !g.parkAtBoundary(a, waited) {
		if a.phase == phaseReady && a.settleFrom != 0 {
			g.clock.set(&a.alarms, alarmSettle, g.now()+settleRetry)
		}
		return
	}
	if len(a.holds) > 0 {
		g.startHold(a)
	} else {
		g.startCheckpoint(a)
	}
}

// parkAtBoundary parks a's running instance for a checkpoint or a hold.
func (g *Gate) parkAtBoundary(a *app, waited int64) bool {
	if !g.quiet(a) && waited < settleLimit {
		return false
	}
	err := a.inst.Park(parkLimit)
	if err == nil && waited < settleLimit && g.directUnread(a) {
		g.activate(a) // what it has not read may be the rest of something
		return false
	}
	if errors.Is(err, engine.ErrBusy) && waited > settleLimit {
		switch {
		case len(a.holds) == 0: // there will be another chance
			a.due = ""
			g.unsettle(a)
			return false
		case waited > forceLimit:
			g.logApp(a).Warn("the instance did not come to a transaction boundary; it is held where it is")
			return a.inst.Park(0) == nil
		}
	}
	if err == nil && !a.heldBack() {
		a.boundAt = g.now()
	}
	return err == nil // a dead one is dealt with when its pidfd is reported
}

// unsettle lets requests through again.
func (g *Gate) unsettle(a *app) {
	a.settleFrom = 0
	if g.strict && len(a.ready) > 0 && !g.sched.runs(&a.seat) {
		g.sched.want(&a.seat, false, g.now())
		return
	}
	g.admitWaiting(a)
}

// pruneSettled keeps the apps for which a boundary is still wanted.
func pruneSettled(list []*app) []*app {
	if len(list) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(a *app) bool { return a.phase != phaseReady || a.settleFrom == 0 })
}

// conns tells which sockets of a's instance belong to which connection.
func (g *Gate) conns(a *app) engine.Conns {
	m := make(engine.Conns, len(a.conns)+len(a.direct))
	g.directConns(a, m)
	for _, c := range a.conns {
		ino := g.peer(c)
		if ino == 0 {
			continue
		}
		m[ino] = c.id
		if c.open {
			// Restored once this transaction is over, the instance would answer a request that nobody waits for: only as
			// long as it is not does the app have the connection that the checkpoint has.
			if c.alias == 0 {
				g.lastID++
				c.alias = g.lastID
			}
			m[ino] = c.alias
		}
	}
	return m
}

func (g *Gate) startCheckpoint(a *app) {
	trigger, conns, alone := a.due, g.conns(a), !g.strict || g.sched.runs(&a.seat)
	a.due = ""
	g.occupy(a)
	goOn := func() {
		g.captured(a)
		a.answered, a.ckptAt = 0, g.now()
		g.goOn(a, alone)
	}
	g.background(func(ctx context.Context) func() {
		resumed := false
		err := g.checkpoint(ctx, a.key, trigger, conns, func() {
			resumed = true
			g.post(func() {
				a.saving = true
				goOn()
			})
		})
		return func() {
			a.saving = false
			if err != nil && g.ctx.Err() == nil {
				g.logApp(a).WithError(err).Error("checkpoint failed; the app goes on without it")
			}
			if !resumed {
				goOn()
			}
		}
	})
}

// checkpoint asks the monitor for a checkpoint and calls resume before the end if the monitor can do that.
func (g *Gate) checkpoint(ctx context.Context, app instance.App, trigger string, conns engine.Conns, resume func()) error {
	if m, ok := g.cfg.Monitor.(gate.EarlyMonitor); ok {
		return m.CheckpointEarly(ctx, app, trigger, conns, resume)
	}
	return g.cfg.Monitor.Checkpoint(ctx, app, trigger, conns)
}

// goOn continues with the instance that a had before. It is woken if nobody else is likely to be next.
func (g *Gate) goOn(a *app, wake bool) {
	if !g.resume(a) {
		return
	}
	g.dialWaiting(a)
	if a.phase != phaseReady || a.settleFrom != 0 {
		return
	}
	if !g.strict {
		if wake {
			g.activate(a)
		} else {
			g.attend(a)
		}
		return
	}
	if !wake || g.sched.running || g.sched.head != nil || g.sched.streak >= eagerAfter {
		g.arm(a)
		return
	}
	g.sched.resumed(&a.seat, g.now())
	g.activate(a)
}

// startHold grants the first hold that waits.
func (g *Gate) startHold(a *app) {
	h := a.holds[0]
	a.holds = a.holds[1:]
	g.withhold(a)
	if h.evict && !g.atRest(a) {
		h.failed <- errNotIdle
		if a.inst != nil {
			g.occupy(a)
		}
		g.release(a, gate.Replacement{})
		return
	}
	held := gate.Held{Instance: a.inst, Conns: g.conns(a), Open: a.present()}
	if a.inst == nil {
		a.phase = phaseBusy
	} else {
		g.occupy(a)
	}
	if h.given = true; len(a.direct) > 0 {
		h.calm = time.Now().Add(calm)
	}
	g.workers.Add(1) // until the release
	h.granted <- held
}

// release goes on after a hold.
func (g *Gate) release(a *app, rep gate.Replacement) {
	switch {
	case rep.Instance != nil:
		g.reclaim(a)
		for i := len(a.conns) - 1; i >= 0; i-- {
			if i < len(a.conns) {
				g.lastWords(a.conns[i])
			}
		}
		a.due, a.undialed, a.fresh, a.dirty, a.downErr = "", nil, nil, nil, nil
		g.unlead(a)
		a.inst = nil
		g.replace(a, rep, false)
	case a.inst != nil:
		g.captured(a)
		g.goOn(a, true)
		if a.withheld && a.phase == phaseReady {
			g.lead(a)
		}
	default:
		g.fail(a, a.downErr)
	}
}

// dropHolds fails the holds that wait.
func (g *Gate) dropHolds(a *app, err error) {
	for _, h := range a.holds {
		h.failed <- err
	}
	a.holds = nil
}
