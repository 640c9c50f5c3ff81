package socket

import "golang.org/x/sys/unix"

// partLimit is how long, in ns, the app has for closing a connection after the crash reply. Closed earlier, with requests
// unread, it could lose the reply.
const partLimit = 2_000_000_000

// refuse answers c's request with the service's crash reply and closes c. Without a request it waits for one, so that
// the reply is never there before its request. Without a crash reply c is reset at once.
func (g *Gate) refuse(c *conn) {
	switch {
	case c.closed || c.parting:
	case c.a.fd < 0:
		g.remove(c)
	case g.cfg.Service.CrashReply == "":
		g.reset(c)
	case c.open && c.sent > 0:
		g.part(c)
	default:
		g.settleConn(c)
		c.doomed, c.a.readable = true, true
		g.queue(c)
	}
}

// part sends the crash reply as the last thing on c.
func (g *Gate) part(c *conn) {
	g.settleConn(c)
	g.dropEnd(&c.s)
	c.doomed, c.parting, c.a.readable = false, true, true
	g.env.fds, g.env.err = g.env.fds[:0], nil
	g.write(c, &c.down, &c.a, []byte(g.cfg.Service.CrashReply))
	if c.linger { // the app has gone
		g.remove(c)
	}
	if c.closed {
		return
	}
	c.down.eof = true
	g.finish(c)
	c.partBy = g.now() + partLimit
	g.clock.set(&c.app.alarms, alarmPart, c.partBy)
	g.queue(c)
}

// drain takes the requests of a connection that has no instance: the first one is answered if c is doomed, others
// are dropped.
func (g *Gate) drain(c *conn) {
	for budget := roundBudget; c.a.readable; budget-- {
		if budget == 0 {
			g.queueAgain(c)
			return
		}
		n, e := g.env.receive(c.a.fd, g.scratch, 0)
		closeAll(g.env.fds)
		switch {
		case e == unix.EAGAIN:
			c.a.readable = false
		case e != 0 || n == 0:
			c.a.readable = false
			if c.doomed || c.down.shut || e != 0 {
				g.remove(c)
				return
			}
			c.up.eof = true // it goes when the reply has left
		case c.doomed:
			g.part(c)
			return
		}
	}
}

// closeParting closes the connections of a that had their time to read the crash reply.
func (g *Gate) closeParting(a *app) {
	for i := len(a.conns) - 1; i >= 0; i-- {
		switch c := a.conns[i]; {
		case !c.parting:
		case c.partBy <= g.now():
			g.remove(c)
		default:
			g.clock.set(&a.alarms, alarmPart, c.partBy)
		}
	}
}
