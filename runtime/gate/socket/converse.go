package socket

import "golang.org/x/sys/unix"

const (
	aloneAfter  = 16   // rounds with events of one connection only, after which it is taken to be alone
	exchanges   = 16   // requests and replies without a look at what else has happened
	slowPenalty = 1000 // rounds without another try after a reply took longer than replyWaitUs
	replyWaitUs = 1000 // microseconds to wait for a reply; the kernel rounds up to its tick
)

// converse serves a connection that talks alone: it waits in recvmsg for the reply to the request that has just
// been forwarded, and tries at once whether the next request is there. That makes four system calls of six. What it saves
// is small beside the two context switches that remain. Whatever else happens meanwhile is noticed after the reply, or
// after the wait has timed out; in strict mode another app could not have had its turn before anyway.
func (g *Gate) converse(c *conn) {
	if c != g.lone || !g.strict && g.nconns != len(c.app.conns) {
		g.lone, g.alone = c, 0
		return
	}
	a := c.app
	for range exchanges {
		if c.closed || !c.open || c.up.pending() || c.down.pending() || c.down.careful || c.up.careful || c.s.hup || c.a.hup ||
			a.inst.Dormant() || g.carries {
			return
		}
		n, e := g.env.await(c.s.fd, g.scratch)
		g.stamp = 0
		if e != 0 || n == 0 {
			if e == unix.EAGAIN {
				g.alone = -slowPenalty
			} else if e != unix.EINTR {
				c.s.readable, c.s.hup = true, true
				g.queueAgain(c)
			}
			return
		}
		if !g.reply(c, n) || c.s.readable {
			g.queueAgain(c)
			return
		}
		if a.settleFrom != 0 || g.strict && g.sched.undecided() || g.clock.next() != 0 {
			return
		}
		c.a.readable = true
		g.pumpUp(c)
	}
}
