package socket

// redeliver sends the request that died with an instance to its successor, which c has just been attached to.
// Nothing of the reply has left, and the policy allows it: see survives.
func (g *Gate) redeliver(c *conn) {
	if !c.open || c.imaged {
		return
	}
	if len(c.kept) > 0 {
		g.env.fds, g.env.err = g.env.fds[:0], nil
		g.write(c, &c.up, &c.s, c.kept)
	}
	if !c.closed {
		c.dirty = true
		c.app.dirty = append(c.app.dirty, c)
		c.app.seat.resume = false
		if !c.waiting {
			c.waiting = true
			c.app.ready = append(c.app.ready, c) // so that the app gets a turn
		}
	}
}
