package socket

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

var _ gate.Evictor = (*Gate)(nil)

// evictAfter is for how many ns an app has to be silent in both directions: a reply may come in pieces.
const evictAfter = 250_000_000

var errNotIdle = fmt.Errorf("something is under way with the app, or it has no instance: %w", engine.ErrBusy)

// Evict implements gate.Evictor.
func (g *Gate) Evict(ctx context.Context, key instance.App, fn func(context.Context, gate.Held) error) error {
	return g.hold(ctx, key, &hold{evict: true}, func(ctx context.Context, held gate.Held) (gate.Replacement, func(*app), error) {
		if err := fn(ctx, held); err != nil {
			return gate.Replacement{}, nil, err
		}
		return gate.Replacement{}, g.detach, nil
	})
}

// evictable reports whether nothing is under way with a, as far as that can be told while its instance may run.
func (g *Gate) evictable(a *app) bool {
	if a.phase != phaseReady || a.settleFrom != 0 || a.saving || a.due != "" || len(a.holds) > 0 || a.open+a.long > 0 ||
		a.wantsMore() || g.now() < max(a.lastUse, a.turnFrom)+evictAfter || a.seat.queued || len(a.ready)+len(a.undialed)+len(a.handing) > 0 {
		return false
	}
	for _, c := range a.conns {
		if c.linger || c.parting || c.doomed || c.waiting || c.s.fd < 0 || c.up.pending() || c.down.pending() ||
			c.up.eof || c.down.eof || c.heardTime != 0 && g.now() < c.heardTime+evictAfter || pollNow(c.a.fd, unix.POLLIN) != 0 {
			return false
		}
	}
	return true
}

// atRest reports whether a, whose instance is dormant and held, may lose that. A connection that the service has not accepted
// is nothing to it yet, but it would be in a checkpoint as one that waits.
func (g *Gate) atRest(a *app) bool {
	if a.inst == nil || a.open+a.long > 0 || len(a.ready)+len(a.undialed)+len(a.holds) > 0 || a.heldBack() || a.waitedFor() {
		return false
	}
	g.meet(a)
	for _, c := range a.conns {
		if c.s.fd < 0 || g.peer(c) == 0 || unconsumed(c.s.fd) > 0 || pollNow(c.s.fd, unix.POLLIN) != 0 {
			return false
		}
	}
	g.fetch(a)
	for _, d := range a.direct {
		if d.busy() != "" {
			g.letGo(a)
			return false
		}
	}
	return true
}

// detach goes on with a without an instance: that has been ended, and nothing was under way. The connections, also those that
// were direct, wait for their app to say something.
func (g *Gate) detach(a *app) {
	for _, d := range a.direct {
		c := g.newConn(a, d.id, d.endpoint, d.dup)
		d.named()
		c.names = d.names
		g.unwatch(d.dup, d.slot)
		d.dup, d.slot = -1, 0
		if err := g.watchEnd(c, &c.a); err != nil {
			g.logApp(a).WithError(err).Error("cannot watch a connection")
			g.reset(c)
		}
	}
	g.dropDirect(a, func(*direct) bool { return true })
	for i := len(a.conns) - 1; i >= 0; i-- {
		if i < len(a.conns) {
			g.lastWords(a.conns[i])
		}
	}
	g.unlead(a)
	fresh := a.undialed
	a.ready, a.undialed, a.fresh, a.dirty = nil, nil, nil, nil
	a.inst, a.phase, a.evicted, a.settleFrom = nil, phaseEmpty, true, 0
	a.seat.resume, a.unfinished, a.timerAt = false, false, 0
	for _, c := range a.conns {
		c.waiting, c.dirty = false, false
		c.a.readable = true
		g.queue(c)
	}
	if len(fresh)+len(a.holds) > 0 {
		g.load(a)
	}
	g.lookIfOver(a)
}

// recall has an evicted app's instance back if c, on which something has happened, is in need of it.
func (g *Gate) recall(c *conn) {
	a := c.app
	n, _, err := unix.Recvfrom(c.a.fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN):
		c.a.readable = false
	case (n == 0 || err != nil) && pollNow(c.a.fd, 0)&(unix.POLLHUP|unix.POLLERR) != 0:
		g.remove(c) // the restored service sees its end of it ended
	default:
		g.load(a)
	}
}

// bringBack asks the monitor for the instance of an app that has been evicted.
func (g *Gate) bringBack(a *app, m gate.RecallMonitor) {
	open := a.present()
	g.background(func(ctx context.Context) func() {
		rep, err := m.Recall(ctx, a.key, open)
		return func() {
			if err != nil {
				g.fail(a, err)
				return
			}
			g.replace(a, rep, false)
		}
	})
}
