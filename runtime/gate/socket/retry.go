package socket

// redeliver sends what c's app has asked and the instance that c has just been attached to has not got: a request
// that died with the former one and that policy has delivered again, or bytes that had not been delivered yet.
func (g *Gate) redeliver(c *conn) {
	if c.alias != 0 || !c.open && !c.up.pending() {
		return
	}
	switch {
	case c.up.pending():
		g.keep(c, c.up.buf[c.up.off:], len(c.up.fds) > 0)
		c.forwarded(len(c.up.buf) - c.up.off) // pump flushes them
	case len(c.kept) > 0:
		g.env.fds, g.env.err = g.env.fds[:0], nil
		c.forwarded(0)
		g.write(c, &c.up, &c.s, c.kept)
	}
	if !c.closed {
		if !c.dirty {
			c.dirty = true
			c.app.dirty = append(c.app.dirty, c)
		}
		c.app.seat.resume = false
		if !c.waiting {
			c.waiting = true
			c.app.ready = append(c.app.ready, c) // so that the app gets a turn
		}
	}
}
