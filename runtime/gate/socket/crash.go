package socket

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/spec"
)

// crashed replaces a's instance, which has died.
func (g *Gate) crashed(a *app) {
	if a.phase == phaseLeaving {
		g.farewell(a)
		return
	}
	exit := a.inst.Exit()
	a.diedAt = g.now()
	if a.inst.Dormant() && a.diedAt > a.calmFrom+calm {
		g.reclaim(a)
	}
	g.dropDirect(a, func(*direct) bool { return true }) // they end with the instance
	for i := len(a.conns) - 1; i >= 0; i-- {
		if i < len(a.conns) {
			g.lastWords(a.conns[i])
		}
	}
	g.occupy(a)
	open := a.present()
	a.due, a.undialed, a.fresh, a.dirty = "", nil, nil, nil
	g.unlead(a)
	replaced := func(rep gate.Replacement, err error) {
		if err == nil && rep.Instance == nil {
			err = errors.New("the monitor gave no instance in place of the crashed one")
		}
		if err != nil {
			g.fail(a, err)
			return
		}
		a.inst = nil
		g.replace(a, rep, true)
		// When the app goes on: to write a line of the log takes as long as all the rest.
		g.post(func() {
			g.logApp(a).WithField("pid", rep.Instance.PID()).Info("the instance was replaced after a crash")
		})
	}
	if p, ok := g.cfg.Monitor.(gate.PromptMonitor); ok {
		if rep, ok, err := p.PromptCrashed(a.key, exit, open); ok {
			g.promptly(p, func() { replaced(rep, err) })
			return
		}
	}
	g.background(func(ctx context.Context) func() {
		rep, err := g.cfg.Monitor.Crashed(ctx, a.key, exit, open)
		return func() { replaced(rep, err) }
	})
}

// present names the connections that a restored state may have: each by its number if it was idle then, and by its
// alias if it was in the transaction in which it still is.
func (a *app) present() []engine.ConnID {
	ids := make([]engine.ConnID, 0, len(a.conns))
	for _, c := range a.conns {
		if c.linger || c.parting {
			continue
		}
		ids = append(append(ids, c.id), c.names...)
		if c.alias != 0 {
			ids = append(ids, c.alias)
		}
	}
	for _, d := range a.direct {
		ids = append(ids, d.names...)
	}
	return ids
}

// lastWords forwards what the instance sent before it died, and lets go of its end of c.
func (g *Gate) lastWords(c *conn) {
	if c.closed {
		return
	}
	if c.linger {
		g.remove(c)
		return
	}
	for c.s.fd >= 0 {
		n, e := g.read(&c.s, &c.down)
		if e != 0 || n == 0 {
			c.lost = c.lost || e == unix.ECONNRESET
			break
		}
		g.settleConn(c)
		g.heard(c)
		c.app.counters.bytesOut.Add(uint64(n))
		if c.down.pending() && len(g.env.fds) == 0 {
			c.down.buf = append(c.down.buf, g.scratch[:n]...)
		} else if !g.write(c, &c.down, &c.a, g.scratch[:n]) && (c.closed || c.linger) {
			break
		}
	}
	if c.linger {
		g.remove(c)
	} else if !c.closed {
		c.lost = c.lost || c.down.pending()
		g.dropEnd(&c.s)
	}
}

// replace goes on with rep's instance under a's connections, after a crash or because somebody asked for it.
func (g *Gate) replace(a *app, rep gate.Replacement, crash bool) {
	a.answered, a.ckptAt = 0, g.now()
	byID := make(map[engine.ConnID]engine.Plumbed, len(rep.Plumbed))
	for _, p := range rep.Plumbed {
		byID[p.ID] = p
	}
	for i := len(a.conns) - 1; i >= 0; i-- {
		c := a.conns[i]
		if c.linger {
			g.remove(c)
			continue
		}
		if c.parting {
			continue
		}
		c.doomed, c.dirty = false, false
		g.dropEnd(&c.s)
		p, continued := byID[c.alias]
		plumbed := continued
		if !continued {
			c.alias = 0
			p, plumbed = byID[c.id]
		}
		for i := 0; i < len(c.names) && !plumbed; i++ {
			p, plumbed = byID[c.names[i]]
		}
		if !g.survives(c, continued, crash) {
			continue
		}
		if plumbed {
			delete(byID, p.ID)
			g.attach(c, p.FD, p.Inode)
			if !c.closed {
				g.redeliver(c)
				g.queue(c)
			}
		}
	}
	for _, p := range byID { // the app has closed them meanwhile
		_ = unix.Close(p.FD)
	}
	g.employ(a, rep.Instance)
}

// survives decides what becomes of c after the death of its instance and does so. continued says that the new
// instance is in the middle of the same transaction.
func (g *Gate) survives(c *conn, continued, crash bool) bool {
	switch {
	case c.open:
		return continued || g.requestDied(c)
	case g.inMidReply(c, crash):
		g.reset(c)
		return false
	}
	return true
}

// A reply may come in pieces, and the gate cannot tell a piece from the whole.
const (
	tornWithin   = 2_000_000      // ns after the last bytes of a connection in which a crash is taken to have cut them off
	recentLimit  = 10_000_000_000 // ns after them in which the service may have been about to go on
	silenceLimit = 3_000_000_000  // ns after a crash in which the app of an unsure connection has to speak
)

// inMidReply reports whether c, on which nothing is under way as far as the gate can tell, lacks the rest of a reply.
// After a crash there are connections that may lack it; those are closed if their apps, which may wait for it, do not
// speak next.
func (g *Gate) inMidReply(c *conn, crash bool) bool {
	a := c.app
	switch age := g.now() - c.heardTime; {
	case c.lost: // the service had not read all of the requests
		return true
	case !crash || c.heardTime <= a.boundAt || age > recentLimit:
		return false
	case a.forwards == c.heardAt && a.diedAt < c.heardTime+tornWithin:
		return true // the instance did not go on to anything else
	}
	c.unsure = true
	a.speakBy = g.now() + silenceLimit
	g.clock.set(&a.alarms, alarmUnsure, a.speakBy)
	return false
}

// heard notes that bytes have come from the instance on c.
func (g *Gate) heard(c *conn) { c.heardTime, c.heardAt = g.now(), c.app.forwards }

// requestDied deals with a connection whose request died with the instance, with nothing of the reply sent.
func (g *Gate) requestDied(c *conn) bool {
	p, reply := &g.cfg.Service.OnCrash, g.cfg.Service.CrashReply
	undelivered := c.up.pending() && !c.up.cut
	switch {
	case c.sent == 0: // it was told of the end of the app's requests, and will be again
		g.settleConn(c)
		return true
	case c.down.pending(): // perhaps not the whole of an earlier reply
		g.reset(c)
		return false
	case p.Mode == spec.CrashRetry && !c.over && c.retries < p.Retries:
		c.retries++
		g.empty(&c.up) // it is part of what was kept
		return true
	case reply == "":
		g.reset(c) // there is nothing to say, and silence would leave the app waiting
		return false
	case c.up.cut, c.up.eof && !undelivered, c.sent >= wholeRequest:
		// The rest of the request may be still to come, and would be taken for another one; or nothing can come.
		g.empty(&c.up)
		g.refuse(c)
		return false
	}
	g.settleConn(c)
	c.retries, c.lost, c.heardTime = 0, false, 0
	if !undelivered {
		g.empty(&c.up)
	}
	g.env.fds, g.env.err = g.env.fds[:0], nil
	g.write(c, &c.down, &c.a, []byte(reply))
	if c.linger { // the app has gone
		g.remove(c)
	}
	return !c.closed
}

// silence closes the unsure connections of a whose app has not spoken since the crash.
func (g *Gate) silence(a *app) {
	if g.now() < a.speakBy { // there was another crash
		g.clock.set(&a.alarms, alarmUnsure, a.speakBy)
		return
	}
	for i := len(a.conns) - 1; i >= 0; i-- {
		if c := a.conns[i]; c.unsure {
			g.reset(c)
		}
	}
}
