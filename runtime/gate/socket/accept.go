package socket

import (
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/instance"
)

const (
	acceptRound = 64            // connections accepted before the others get a chance
	acceptPause = 10_000_000    // ns without accepting when descriptors have run out, or apps come and go too fast
	refusalLog  = 1_000_000_000 // ns between two log entries about connections that were turned away
)

// accept takes new connections.
func (g *Gate) accept(ep *endpoint) {
	for range acceptRound {
		if !g.accepting {
			return
		}
		if g.departing >= maxDeparting {
			g.pauseAccept(true)
			return
		}
		fd, _, err := unix.Accept4(ep.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
			g.greet(ep, fd)
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE:
			g.turnAway(ep)
			return
		default:
			g.log.WithError(err).WithField("endpoint", ep.address).Error("cannot accept")
			g.pauseAccept(true)
			return
		}
	}
}

// greet names the app of a new connection and takes it over.
func (g *Gate) greet(ep *endpoint, fd int) {
	g.lastID++
	key, err := g.name(ep, fd, g.lastID)
	if err != nil {
		g.log.WithError(err).WithField("endpoint", ep.address).Warn("connection closed: its app cannot be named")
		_ = unix.Close(fd)
		return
	}
	if a := g.apps[key]; g.nconns >= g.cfg.MaxConns || a != nil && len(a.conns) >= g.cfg.MaxConnsPerApp {
		_ = unix.Close(fd)
		g.complain(key)
		return
	}
	a := g.lookUp(key)
	g.watchClient(a)
	if ep.network != "unix" {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // or small replies would wait
	}
	g.admitConn(a, g.lastID, ep.index, fd)
}

func (g *Gate) complain(key instance.App) {
	if now := g.now(); g.lastRefusal == 0 || now > g.lastRefusal+refusalLog {
		g.lastRefusal = now
		g.log.WithField("app", string(key)).WithField("connections", g.nconns).Warn("connection closed: too many are open")
	}
}

// turnAway closes a waiting connection when no descriptor is left, instead of leaving its client to wait for
// something that may never come, and pauses.
func (g *Gate) turnAway(ep *endpoint) {
	if g.reserve >= 0 {
		_ = unix.Close(g.reserve)
		if fd, _, err := unix.Accept4(ep.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); err == nil {
			_ = unix.Close(fd)
		}
		var err error
		if g.reserve, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			g.reserve = -1
		}
	}
	if now := g.now(); g.lastRefusal == 0 || now > g.lastRefusal+refusalLog {
		g.lastRefusal = now
		g.log.WithField("endpoint", ep.address).Error("connection closed: no descriptors left; raise RLIMIT_NOFILE")
	}
	g.pauseAccept(true)
}

func (g *Gate) pauseAccept(on bool) {
	g.accepting = !on
	events := uint32(unix.EPOLLIN)
	if on {
		events = 0
		g.clock.set(&g.alarms, alarmAccept, g.now()+acceptPause)
	}
	for _, ep := range g.eps {
		g.rewatch(ep.fd, ep.slot, events)
	}
}
