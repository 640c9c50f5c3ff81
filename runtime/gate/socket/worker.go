package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
)

// occupy takes a off the schedule while a worker has it: its requests wait.
func (g *Gate) occupy(a *app) {
	a.phase = phaseBusy
	a.seat.again = false
	if g.sched.runs(&a.seat) {
		g.sched.parked(g.now())
	}
	g.sched.drop(&a.seat)
	if a.slot != 0 {
		g.unwatch(a.inst.PIDFD(), a.slot)
		a.slot = 0
	}
}

// background runs job on a worker and what it returns on the loop.
func (g *Gate) background(job func(ctx context.Context) func()) {
	g.workers.Add(1)
	go func() {
		defer g.workers.Done()
		g.post(job(g.ctx)) // the gate closes only after its workers
	}()
}

// promptly goes on with what the monitor had ready, and tells it in the round after, when instances have been activated.
func (g *Gate) promptly(m gate.PromptMonitor, goOn func()) {
	g.post(func() {
		goOn()
		g.post(m.Prompted)
	})
}

// load asks the monitor for a's instance.
func (g *Gate) load(a *app) {
	g.occupy(a)
	if a.evicted {
		a.evicted = false
		if m, ok := g.cfg.Monitor.(gate.RecallMonitor); ok {
			g.bringBack(a, m)
			return
		}
	}
	if g.promisedTo(a) {
		return
	}
	if p, ok := g.cfg.Monitor.(gate.PromptMonitor); ok {
		if in, ok := p.PromptInstance(a.key); ok {
			g.promptly(p, func() { g.employ(a, in) })
			return
		}
	}
	g.background(func(ctx context.Context) func() {
		in, err := g.cfg.Monitor.Instance(ctx, a.key)
		return func() {
			if err != nil {
				g.fail(a, err)
				return
			}
			g.employ(a, in)
		}
	})
}

// employ begins to serve a with instance in.
func (g *Gate) employ(a *app, in engine.Instance) {
	a.inst = in
	if !in.Dormant() && g.strict { // it was left running by an earlier monitor
		if err := in.Park(parkLimit); errors.Is(err, engine.ErrBusy) {
			err = in.Park(0)
			if err != nil && !errors.Is(err, engine.ErrGone) {
				g.logApp(a).WithError(err).Error("cannot park the instance")
			}
		}
	}
	if a.former {
		a.former = false
		g.discover(a)
	}
	if g.resume(a) {
		g.lead(a)
		g.resumeDirect(a)
		for i := 0; i < len(a.conns); i++ {
			c := a.conns[i]
			if c.s.fd < 0 && !c.linger && !c.parting {
				c.doomed = false
				g.dial(c)
			}
			if i < len(a.conns) && a.conns[i] != c { // refused, and another took its place
				i--
			}
		}
	}
}

// resumeDirect lets the direct connections of a that was taken over go on.
func (g *Gate) resumeDirect(a *app) {
	if g.strict {
		g.arm(a)
		return
	}
	g.watchTimers(a)
	if len(a.direct) > 0 {
		g.activate(a)
	}
}

// resume lets requests through again after a worker had a.
func (g *Gate) resume(a *app) bool {
	slot, err := g.watch(a.inst.PIDFD(), unix.EPOLLIN, entry{kind: slotPIDFD, app: a})
	if err != nil {
		g.fail(a, fmt.Errorf("watch the instance's pidfd: %w", err))
		return false
	}
	a.slot, a.phase = slot, phaseReady
	g.lookIfOver(a)
	g.handSoon(a) // what was accepted before a worker had it
	for _, c := range a.conns {
		if c.s.hup {
			c.s.readable = true
			g.queue(c)
		}
	}
	a.settleFrom = 0
	if len(a.holds) > 0 {
		g.wantBoundary(a)
		return true
	}
	switch {
	case !g.strict:
		g.admitWaiting(a)
	case len(a.ready) > 0, g.awaitsAccept(a): // it has lost its place in the queue
		g.sched.want(&a.seat, false, g.now())
	case a.wantsMore():
		g.sched.want(&a.seat, true, g.now())
	}
	return true
}

// fail answers every connection of a: it has no instance.
func (g *Gate) fail(a *app, err error) {
	g.unlead(a)
	a.phase, a.inst, a.settleFrom, a.due = phaseEmpty, nil, 0, ""
	if errors.Is(err, gate.ErrQuarantined) || errors.Is(err, gate.ErrStopped) {
		a.phase, a.downErr = phaseDown, err
	}
	if g.ctx.Err() == nil {
		g.logApp(a).WithError(err).Error("the app has no instance: its connections are refused")
	}
	for i := len(a.conns) - 1; i >= 0; i-- {
		c := a.conns[i]
		c.waiting, c.dirty = false, false
		switch {
		case c.linger:
			g.remove(c)
		case c.parting:
		case c.down.pending(), !c.open && g.inMidReply(c, true):
			g.reset(c)
		default:
			g.dropEnd(&c.s)
			g.empty(&c.up)
			g.refuse(c)
		}
	}
	g.lookIfOver(a)
	a.ready, a.undialed, a.fresh, a.dirty = nil, nil, nil, nil
	if a.phase == phaseDown && len(a.holds) > 0 {
		g.startHold(a)
	} else {
		g.dropHolds(a, err)
	}
}

// dying reports whether a's instance is on its way out: a socket of it that ended did so because of that.
func (g *Gate) dying(a *app) bool {
	if a.phase != phaseReady {
		return true // not to be decided now: resume looks at it again
	}
	if pollNow(a.inst.PIDFD(), unix.POLLIN) != 0 {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(a.inst.PID()) + "/stat")
	if err != nil {
		return true
	}
	// The fields after the command name: state ppid pgrp session tty_nr tpgid flags.
	f := statFields(b)
	if len(f) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	const exiting = 0x4 // PF_EXITING
	return f[0] == "Z" || f[0] == "X" || err == nil && flags&exiting != 0
}
