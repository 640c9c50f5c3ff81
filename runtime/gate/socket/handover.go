package socket

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

const (
	acceptLooks   = 20         // looks whether the service has accepted, before others get a chance
	handoverPause = 50_000     // ns before the first look later on; each pause is twice as long
	handoverMost  = 10_000_000 // ns, the longest
	handoverTries = 200        // of a connection that cannot be replaced yet, before it stays proxied
)

// Hand-over. The gate accepts the app's connection, dials the instance and waits until the service has accepted that. Then it
// has the engine put the app's socket in the place of the accepted one. It has not read a byte from the app until then, and
// has passed on what the service had sent already; so nothing is lost or changes its order, wherever the service is.

// wantHandover has c handed over once the service has accepted it.
func (g *Gate) wantHandover(c *conn) {
	a := c.app
	if !slices.Contains(a.handing, c) {
		a.handing = append(a.handing, c)
	}
	g.handSoon(a)
}

// handSoon has the round look at a's connections that are to be handed over.
func (g *Gate) handSoon(a *app) {
	a.handPause = 0
	if len(a.handing) > 0 && !slices.Contains(g.handing, a) {
		g.handing = append(g.handing, a)
	}
}

func (g *Gate) handOverAll() {
	for i := 0; i < len(g.handing); i++ {
		g.handOverApp(g.handing[i])
	}
	g.handing = g.handing[:0]
}

// handOverApp hands those connections of a over that the service has accepted.
func (g *Gate) handOverApp(a *app) {
	a.handing = slices.DeleteFunc(a.handing, func(c *conn) bool { return c.closed || !c.handing || c.s.fd < 0 })
	if a.phase != phaseReady || len(a.handing) == 0 {
		return // resume has it looked at again
	}
	if !g.accepted(a) {
		if !a.inst.Dormant() { // else it is looked at when it runs
			g.handLater(a)
		}
		return
	}
	h, ok := a.inst.(engine.SocketHolder)
	if !ok {
		g.stayProxied(a, "the engine does not exchange sockets")
		return
	}
	was := !a.inst.Dormant()
	if was {
		if err := a.inst.Park(0); err != nil {
			if !errors.Is(err, engine.ErrGone) {
				g.logApp(a).WithError(err).Error("cannot park the instance to hand a connection over")
				g.handLater(a)
			}
			return
		}
	}
	for _, c := range slices.Clone(a.handing) {
		if !c.closed && g.peer(c) != 0 {
			g.handOver(c, h)
		}
	}
	if a.phase == phaseReady && (was || !g.strict && len(a.direct) > 0) {
		g.activate(a)
	}
	g.arm(a)
	a.handing = slices.DeleteFunc(a.handing, func(c *conn) bool { return c.closed || !c.handing })
	if len(a.handing) > 0 {
		g.handLater(a)
	}
}

// accepted waits a little for the service to accept one of the connections.
func (g *Gate) accepted(a *app) bool {
	for range acceptLooks {
		for _, c := range a.handing {
			if g.peer(c) != 0 {
				c.fresh = false
				return true
			}
		}
		if a.inst.Dormant() || a.handPause > 0 {
			return false
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return false
}

func (g *Gate) handLater(a *app) {
	a.handPause = min(max(2*a.handPause, handoverPause), handoverMost)
	g.stamp = 0
	g.clock.set(&a.alarms, alarmHandover, g.now()+a.handPause)
}

// handOver makes c, which the dormant instance has accepted, direct.
func (g *Gate) handOver(c *conn, h engine.SocketHolder) {
	c.s.readable = true
	g.pumpDown(c) // a greeting
	switch {
	case c.closed:
		return
	case c.linger, c.down.eof, c.s.fd < 0, c.a.fd < 0:
		g.proxy(c)
		return
	case c.down.pending() || c.s.readable || unread(c.s.fd):
		g.postpone(c)
		return
	}
	a := c.app
	sock, err := h.ReplaceSocket(context.Background(), g.peer(c), c.a.fd, c.s.fd)
	switch {
	case err == nil:
		g.addDirect(a, c.id, c.endpoint, sock).names = c.names
		g.remove(c)
		a.unfinished = false
	case errors.Is(err, engine.ErrGone): // the pidfd is about to tell; the replacement is dialled
	case errors.Is(err, engine.ErrBusy):
		g.postpone(c)
	case errors.Is(err, engine.ErrNoSocket): // the service has closed it
		g.proxy(c)
	case errors.Is(err, engine.ErrRefused):
		g.stayProxied(a, err.Error())
	default:
		g.logApp(a).WithError(err).Error("connection reset: it could not be handed over")
		g.reset(c)
	}
}

// postpone tries again to hand c over in a moment, but not for ever.
func (g *Gate) postpone(c *conn) {
	if c.tries++; c.tries > handoverTries {
		g.proxy(c)
	}
}

// proxy begins to move the bytes of c, which was to be handed over.
func (g *Gate) proxy(c *conn) {
	c.handing = false
	g.queue(c)
}

// stayProxied gives up handing connections of a over, those to come included.
func (g *Gate) stayProxied(a *app, reason string) {
	if a.proxied == "" {
		g.logApp(a).WithField("reason", reason).Info("connections stay proxied")
	}
	a.proxied = reason
	a.counters.proxied.Store(&reason)
	for _, c := range a.handing {
		g.proxy(c)
	}
	a.handing = nil
}
