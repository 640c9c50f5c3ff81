package socket

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

const (
	sweepEvery  = 500_000_000 // ns in which every direct connection of an app is looked at once
	sweepLeast  = 20_000_000  // ns between two looks
	sweepAtOnce = 64          // connections in one look
	maxNames    = 256         // checkpoints in which a connection is known
	calm        = 100_000_000 // ns without a byte after which a connection counts as idle
)

// A direct is a connection whose app's socket is the instance's own. The gate sees none of its bytes, and holds a duplicate
// of it only while the instance cannot run: as long as there is one, the app does not see that the service closes it.
type direct struct {
	id       engine.ConnID
	app      *app
	endpoint int
	sock     engine.Socket
	dup      int   // -1: none
	slot     int32 // of dup, 0 if it is not watched

	names  []engine.ConnID // in checkpoints at which it was idle
	naming engine.ConnID   // in one that is being taken, 0: none
}

// addDirect notes a direct connection of a.
func (g *Gate) addDirect(a *app, id engine.ConnID, endpoint int, sock engine.Socket) *direct {
	d := &direct{id: id, app: a, endpoint: endpoint, sock: sock, dup: -1}
	a.direct = append(a.direct, d)
	a.counters.direct.Add(1)
	a.counters.conns.Add(1)
	a.counters.untracked.Store(true)
	g.clock.set(&a.alarms, alarmSweep, g.now()+sweepEvery/2)
	return d
}

// dropDirect forgets the direct connections of a that are done with, and closes what the gate has of them.
func (g *Gate) dropDirect(a *app, done func(*direct) bool) {
	before := len(a.direct)
	a.direct = slices.DeleteFunc(a.direct, func(d *direct) bool {
		if !done(d) {
			return false
		}
		g.dropDup(d)
		return true
	})
	gone := int64(before - len(a.direct))
	if gone == 0 {
		return
	}
	a.counters.direct.Add(-gone)
	a.counters.conns.Add(-gone)
	g.lookIfOver(a)
	if len(a.direct) == 0 && a.phase == phaseReady && !g.strict && !a.inst.Dormant() {
		g.clock.set(&a.alarms, alarmIdle, g.now()+idleLimit)
	}
}

func (g *Gate) dropDup(d *direct) {
	if d.dup < 0 {
		return
	}
	g.unwatch(d.dup, d.slot)
	_ = unix.Close(d.dup)
	d.dup, d.slot = -1, 0
}

// sweep looks which direct connections of a the service has closed: nothing else tells.
func (g *Gate) sweep(a *app) {
	if a.phase == phaseReady {
		g.meet(a)
	}
	n := len(a.direct)
	if n == 0 {
		return
	}
	h, ok := a.inst.(engine.SocketHolder)
	if a.phase == phaseReady && ok {
		look := min(n, sweepAtOnce)
		for i := range look {
			d := a.direct[(a.swept+i)%n]
			if !h.HoldsSocket(d.sock) {
				d.sock = g.found(h, d.sock)
			}
		}
		a.swept += look
		g.dropDirect(a, func(d *direct) bool { return d.sock.Inode == 0 })
	}
	if n = len(a.direct); n > 0 {
		every := int64(sweepEvery)
		if g.ends() {
			every /= 4
		}
		g.clock.set(&a.alarms, alarmSweep, g.now()+max(sweepLeast, every*sweepAtOnce/int64(max(n, sweepAtOnce))))
	}
}

// found looks for a socket that is not where it was. Its inode is 0 if the instance does not have it any more.
func (g *Gate) found(h engine.SocketHolder, s engine.Socket) engine.Socket {
	fd, err := h.DuplicateSocket(s)
	if err != nil {
		if errors.Is(err, engine.ErrNoSocket) || errors.Is(err, engine.ErrGone) {
			s.Inode = 0
		}
		return s
	}
	_ = unix.Close(fd)
	return s
}

// directState is what can be told of a direct connection of a dormant instance.
type directState struct {
	unread  bool // the service has yet to read what the app sent
	stalled bool // the app has yet to read what the service sent, and the service may wait for that
}

func look(dup int) directState {
	n, err := unix.IoctlGetInt(dup, unix.TIOCINQ)
	return directState{unread: err != nil || n > 0, stalled: pollNow(dup, unix.POLLOUT)&unix.POLLOUT == 0}
}

// fetch duplicates the sockets of a's direct connections; those that the service has closed are forgotten.
func (g *Gate) fetch(a *app) {
	h, ok := a.inst.(engine.SocketHolder)
	if !ok || len(a.direct) == 0 {
		return
	}
	g.dropDirect(a, func(d *direct) bool {
		if d.dup >= 0 {
			return false
		}
		fd, err := h.DuplicateSocket(d.sock)
		if errors.Is(err, engine.ErrNoSocket) {
			return true
		}
		if err != nil {
			g.logApp(a).WithError(err).Error("cannot look at a direct connection")
			return false
		}
		d.dup = fd
		return false
	})
}

// letGo closes what fetch has got.
func (g *Gate) letGo(a *app) {
	for _, d := range a.direct {
		g.dropDup(d)
	}
}

// busy says why a request may be under way on d; "" if there is none as far as anybody can tell: the instance was parked at a
// boundary, has read everything and waits for nobody to read.
func (d *direct) busy() string {
	h, ok := d.app.inst.(engine.SocketHolder)
	if d.dup < 0 || !ok {
		return "it cannot be looked at"
	}
	switch s := look(d.dup); {
	case h.Working():
		return "a thread of the instance was at work"
	case s.unread:
		return "there were bytes to read"
	case s.stalled:
		return "the app had not read what came before"
	}
	return ""
}

// reclaim makes connections that the gate serves of the direct ones of an instance that is dead or about to be ended. Only
// those that were at rest can go on with another one; all others end with it.
func (g *Gate) reclaim(a *app) {
	g.meet(a)
	g.fetch(a)
	for _, d := range a.direct {
		if why := d.busy(); why != "" {
			g.logApp(a).WithField("reason", why).Info("a direct connection ends with its instance")
			continue
		}
		g.unwatch(d.dup, d.slot)
		fd := d.dup
		d.dup, d.slot = -1, 0
		c := g.newConn(a, d.id, d.endpoint, fd)
		c.names = d.names
		if err := g.watchEnd(c, &c.a); err != nil {
			g.logApp(a).WithError(err).Error("cannot watch a connection")
			g.reset(c)
		}
	}
	g.dropDirect(a, func(*direct) bool { return true })
}

// directConns adds the direct connections of a to m, each under a name of its own for this checkpoint, which captured may
// make one that is asked for.
func (g *Gate) directConns(a *app, m engine.Conns) {
	if len(a.direct) == 0 {
		return
	}
	g.fetch(a)
	for _, d := range a.direct {
		g.lastID++
		m[d.sock.Inode], d.naming = g.lastID, 0
		if d.busy() == "" {
			d.naming = g.lastID
		}
	}
}

// captured notes which direct connections of a, whose instance is about to go on after a checkpoint, have been idle from its beginning
// to its end. On the others a request may be under way of which the service has a part: restored, it would take for the rest of
// it what comes then.
func (g *Gate) captured(a *app) {
	for _, d := range a.direct {
		if d.dup >= 0 && !look(d.dup).unread {
			d.named()
		}
		d.naming = 0
	}
	g.letGo(a)
}

// named notes that the checkpoint which is being taken knows d.
func (d *direct) named() {
	if d.naming == 0 {
		return
	}
	if len(d.names) == maxNames {
		d.names = append(d.names[:0], d.names[1:]...)
	}
	d.names = append(d.names, d.naming)
}

// directUnread reports whether there is something to read on a direct connection of a, which is dormant.
func (g *Gate) directUnread(a *app) bool {
	g.meet(a)
	g.fetch(a)
	defer g.letGo(a)
	return slices.ContainsFunc(a.direct, func(d *direct) bool { return d.dup >= 0 && look(d.dup).unread })
}

// mayHandOver reports whether connections to the endpoint are to become direct.
func (g *Gate) mayHandOver(a *app, ep *endpoint) bool {
	if g.path == spec.PathProxied || a.proxied != "" {
		return false
	}
	if ep.network != "unix" {
		reason := "the connections to " + ep.address + " are TCP, and their ends are in different network namespaces"
		a.counters.proxied.Store(&reason)
		return false
	}
	return true
}
