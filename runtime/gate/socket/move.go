package socket

import (
	"golang.org/x/sys/unix"
)

const (
	scratchSize  = 128 << 10   // bytes moved by one read; also the most that is held back in one direction
	roundBudget  = 8           // reads of one direction before the others get a chance
	wholeRequest = scratchSize // bytes: a request that has come to less is taken to be complete
	maxKept      = 1 << 20     // bytes of a request that are kept for a retry
	bulk         = 16 << 10    // bytes of a reply that are likely to be followed by more
)

// pump moves what can be moved on c, replies first.
func (g *Gate) pump(c *conn) {
	if !c.closed {
		g.pumpDown(c)
	}
	if !c.closed {
		g.pumpUp(c)
	}
}

// pumpUp moves requests.
func (g *Gate) pumpUp(c *conn) {
	a, f := c.app, &c.up
	if c.doomed || c.parting {
		g.drain(c)
		return
	}
	if a.evicted && c.a.readable {
		g.recall(c)
		return
	}
	if c.handing {
		return
	}
	if c.s.fd < 0 || c.linger || f.pending() && !g.flush(c, f, &c.s) {
		return
	}
	for budget := roundBudget; c.a.readable && !f.eof; budget-- {
		if !g.admit(a) {
			g.holdBack(c)
			return
		}
		if budget == 0 {
			g.queueAgain(c)
			return
		}
		n, e := g.read(&c.a, f)
		switch {
		case e == unix.EAGAIN:
			c.a.readable = false
			return
		case e != 0 || n == 0:
			f.eof = true
			c.a.readable = false
		default:
			c.a.readable = n == len(g.scratch) || c.a.hup || f.careful
			g.keep(c, g.scratch[:n], len(g.env.fds) > 0)
			c.forwarded(n)
			a.counters.bytesIn.Add(uint64(n))
			if !g.write(c, f, &c.s, g.scratch[:n]) && c.closed {
				return
			}
			g.sent = c
			g.use(a)
			if f.pending() {
				return
			}
		}
	}
	if f.eof && !f.pending() {
		g.endUp(c)
	}
}

// use lets the instance work on what was written to it.
func (g *Gate) use(a *app) {
	a.lastUse = g.now()
	g.activate(a)
}

// endUp passes the end of the app's requests on. If the app has gone altogether, c lingers until the service has
// noticed: its socket is part of the instance's state until then.
func (g *Gate) endUp(c *conn) {
	if !c.up.shut {
		c.up.shut = true
		c.opened()
		shutdown(c.s.fd, unix.SHUT_WR)
		g.use(c.app)
	}
	if c.a.fd >= 0 && c.a.hup && pollNow(c.a.fd, 0)&(unix.POLLHUP|unix.POLLERR) != 0 {
		g.abandon(c)
		return
	}
	g.finish(c)
}

// abandon notes that the app's end of c is gone.
func (g *Gate) abandon(c *conn) {
	if c.linger || c.closed {
		return
	}
	c.linger = true
	c.app.counters.conns.Add(-1)
	g.dropEnd(&c.a)
	g.empty(&c.down)
	g.empty(&c.up)
	if c.s.fd < 0 || c.down.eof {
		g.remove(c)
		return
	}
	g.limitLinger(c.app)
	if !c.up.shut {
		c.up.eof, c.up.shut = true, true
		c.opened()
		shutdown(c.s.fd, unix.SHUT_WR)
		g.rouse(c.app)
	}
	g.queue(c)
}

// pumpDown moves replies.
func (g *Gate) pumpDown(c *conn) {
	f := &c.down
	if f.pending() && !g.flush(c, f, &c.a) {
		return
	}
	for budget := roundBudget; c.s.readable && !f.eof; budget-- {
		if budget == 0 {
			g.queueAgain(c)
			return
		}
		n, e := g.read(&c.s, f)
		if e == unix.EAGAIN {
			c.s.readable = false
			return
		}
		if e != 0 || n == 0 {
			c.lost = e != 0
			g.ended(c)
			break
		}
		if !g.reply(c, n) {
			return
		}
	}
	if f.eof && !f.pending() {
		g.finish(c)
	}
}

// reply forwards n bytes of the scratch buffer to the app. It reports whether there may be more to move.
func (g *Gate) reply(c *conn, n int) bool {
	f, a := &c.down, c.app
	c.s.readable = n == len(g.scratch) || c.s.hup || f.careful
	c.fresh = false
	g.heard(c)
	if c.linger {
		closeAll(g.env.fds)
		if g.ends() { // the instance ends with the connection: not before it has read all requests
			return true
		}
		g.remove(c) // nobody listens: the service gets the EPIPE that a closed connection would give it
		return false
	}
	answered := c.open
	g.settleConn(c)
	a.counters.bytesOut.Add(uint64(n))
	if answered {
		c.retries = 0
		g.count(a)
	}
	if n >= bulk {
		a.bulkAt = g.now()
	}
	if !g.write(c, f, &c.a, g.scratch[:n]) && c.closed {
		return false
	}
	return !f.pending() && !c.linger
}

// ended handles the end of the service's side of c. If that is because the instance dies, the connection survives;
// the pidfd tells the rest.
func (g *Gate) ended(c *conn) {
	c.s.readable = false
	if g.dying(c.app) {
		return
	}
	c.down.eof = true
	g.settleConn(c)
}

// finish passes the end of the replies on, and closes c when nothing more can come.
func (g *Gate) finish(c *conn) {
	if c.closed || !c.down.eof || c.down.pending() {
		return
	}
	if c.linger || c.up.shut || c.parting && c.up.eof || pollNow(c.s.fd, 0)&(unix.POLLHUP|unix.POLLERR) != 0 {
		if c.lost {
			g.reset(c)
		} else {
			g.remove(c)
		}
		return
	}
	if !c.down.shut {
		c.down.shut = true
		shutdown(c.a.fd, unix.SHUT_WR)
	}
}

// read takes bytes from e into the scratch buffer, and descriptors into the envelope.
func (g *Gate) read(e *end, f *flow) (int, unix.Errno) {
	if !e.unix {
		f.careful = false
		g.env.fds, g.env.err = g.env.fds[:0], nil
		return receive(e.fd, g.scratch)
	}
	f.careful = f.careful || g.carries
	var (
		n   int
		err unix.Errno
	)
	if f.careful {
		if n, err = g.env.receiveApart(e.fd, g.scratch, &f.stash); err == unix.EAGAIN {
			f.careful = g.carries // the connection's first bytes have been looked at
		}
	} else {
		n, err = g.env.receive(e.fd, g.scratch, 0)
	}
	if len(g.env.fds) > 0 {
		g.carries, f.careful = true, true // also: a short read does not mean that there is no more
	}
	return n, err
}

// write sends p, which came with the envelope's descriptors, to e; what does not fit is kept. It returns false
// if that is not all of p.
func (g *Gate) write(c *conn, f *flow, e *end, p []byte) bool {
	var (
		n   int
		err unix.Errno
	)
	if len(g.env.fds) == 0 && g.env.err == nil {
		n, err = send(e.fd, p)
	} else {
		if g.env.err == nil && !e.unix {
			g.env.err = errCarriesNot
		}
		if g.env.err != nil {
			closeAll(g.env.fds)
			g.logApp(c.app).WithError(g.env.err).Error("connection reset: cannot pass descriptors on")
			g.reset(c)
			return false
		}
		f.fds = append(f.fds[:0], g.env.fds...)
		n, err = g.sendRights(f, e, p)
	}
	switch {
	case err == unix.EAGAIN:
		n = 0
	case err != 0:
		g.broken(c, f, e, err)
		return false
	}
	if n == len(p) {
		return true
	}
	f.buf, f.off, f.cut = append(g.buffer(), p[n:]...), 0, n > 0
	g.wantOut(e, true)
	return false
}

// sendRights sends p with the flow's descriptors, which are done with once a byte of it is out.
func (g *Gate) sendRights(f *flow, e *end, p []byte) (int, unix.Errno) {
	n, err := g.env.send(e.fd, p, f.fds)
	if err == 0 {
		closeAll(f.fds)
		f.fds = f.fds[:0]
	}
	return n, err
}

// flush sends what was kept; true if nothing is left.
func (g *Gate) flush(c *conn, f *flow, e *end) bool {
	for f.pending() {
		var (
			n   int
			err unix.Errno
		)
		if len(f.fds) > 0 {
			n, err = g.sendRights(f, e, f.buf[f.off:])
		} else {
			n, err = send(e.fd, f.buf[f.off:])
		}
		if err == unix.EAGAIN {
			g.wantOut(e, true)
			return false
		}
		f.cut = true
		if err != 0 {
			g.broken(c, f, e, err)
			return false
		}
		if f.off += n; f.off == len(f.buf) {
			g.empty(f)
			g.wantOut(e, false)
		}
	}
	return true
}

// broken handles an end that takes no more bytes.
func (g *Gate) broken(c *conn, f *flow, e *end, err unix.Errno) {
	if err != unix.EPIPE && err != unix.ECONNRESET {
		g.logApp(c.app).WithError(err).Error("connection reset: cannot pass its bytes on")
		g.empty(f)
		g.reset(c)
		return
	}
	if e == &c.a {
		g.empty(f)
		g.abandon(c)
		return
	}
	if g.dying(c.app) {
		return // the request is delivered again, or answered, when the instance has been replaced
	}
	g.empty(f)
	f.eof, f.shut = true, true
	c.a.readable = false
	shutdown(c.a.fd, unix.SHUT_RD)
	g.settleConn(c)
	c.s.readable, c.s.hup = true, true // the service's last words may still be there
	g.queue(c)
}

// empty drops what a flow holds back.
func (g *Gate) empty(f *flow) {
	if f.buf != nil {
		if cap(f.buf) == scratchSize && len(g.pool) < cap(g.pool) {
			g.pool = append(g.pool, f.buf[:0])
		}
		f.buf, f.off, f.cut = nil, 0, false
	}
	closeAll(f.fds)
	f.fds = f.fds[:0]
}

// buffer takes an empty buffer of scratchSize from the pool.
func (g *Gate) buffer() []byte {
	if n := len(g.pool); n > 0 {
		b := g.pool[n-1]
		g.pool = g.pool[:n-1]
		return b
	}
	return make([]byte, 0, scratchSize)
}

// holdBack remembers that c has input that may not be forwarded yet.
func (g *Gate) holdBack(c *conn) {
	if c.waiting {
		return
	}
	c.waiting = true
	c.waitFrom = g.now()
	c.app.ready = append(c.app.ready, c)
}
