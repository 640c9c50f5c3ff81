package socket

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

const (
	directLook    = 50_000 // ns between two looks whether an instance with direct connections has become quiet
	directSamples = 4      // looks, with other processes let run in between, that have to find nothing to read
	directSpan    = 50_000 // ns after which there are no more
	atWork        = 16     // turns in a row that an app takes like others because a thread of its instance was at work
	manyDirect    = 64     // connections of an app from which on there is one look
)

// With concurrency=strict an instance whose connections are direct is woken by its sockets themselves: while it is dormant the
// gate has duplicates of them and waits for what the instance would wait for. They are closed when it is activated.

// arm watches the direct connections of a, whose instance is dormant.
func (g *Gate) arm(a *app) {
	g.meet(a)
	g.attend(a)
	g.watchTimers(a)
	if !g.strict || len(a.direct) == 0 || a.phase != phaseReady || !a.inst.Dormant() {
		return
	}
	a.calmFrom = g.now()
	g.fetch(a)
	h, ok := a.inst.(engine.SocketHolder)
	blind := !ok
	for _, d := range a.direct {
		if d.slot != 0 {
			continue
		}
		if d.dup < 0 {
			blind = true
			continue
		}
		// Once: what has happened is seen by the instance, in its turn.
		events := uint32(unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT)
		if look(d.dup).stalled {
			events |= unix.EPOLLOUT
		}
		var err error
		if d.slot, err = g.watch(d.dup, events, entry{kind: slotDirect, app: a}); err != nil {
			g.logApp(a).WithError(err).Error("cannot watch a direct connection")
			blind = true
		}
	}
	switch {
	case blind: // it looks for itself every now and then
		a.unfinished = true
		g.pause(a)
	case !a.unfinished && ok && (h.Unsettled() || h.Ready()):
		g.sched.want(&a.seat, false, g.now())
		if !slices.Contains(g.halted, a) { // else it is looked at anyway
			g.clock.set(&g.alarms, alarmTurn, g.now()) // this round may be past taking turns
		}
	}
}

// unattended reports whether a, which has just been parked, has something to do that no socket will tell of: a connection to
// accept, or a request in the middle of which the service waits for something else.
func (g *Gate) unattended(a *app) bool {
	if len(a.handing)+len(a.direct) == 0 {
		return false
	}
	if g.awaitsAccept(a) {
		return true
	}
	h, ok := a.inst.(engine.SocketHolder)
	if !ok || !h.Working() && !h.Sleeps() {
		return false
	}
	if h.Working() && a.lull < atWork {
		a.lull++
		g.sched.want(&a.seat, false, g.now()) // in the middle of a request, most likely
		return false
	}
	a.lull++ // if nothing comes of it, it may be a thread that always does so: ever more seldom
	return true
}

// awaitsAccept reports whether the service has yet to accept a connection that is to be handed over: nothing is sent on it
// before, so nothing else wakes the instance.
func (g *Gate) awaitsAccept(a *app) bool {
	return slices.ContainsFunc(a.handing, func(c *conn) bool { return !c.closed && c.handing && c.s.fd >= 0 && g.peer(c) == 0 })
}

// knocked has a take a turn: something has happened on a direct connection.
func (g *Gate) knocked(a *app) {
	a.lull = 0
	if a.phase == phaseReady && a.inst.Dormant() {
		g.sched.want(&a.seat, false, g.now())
	}
}

// directQuiet reports whether there is nothing to read on the direct connections of a, which runs and keeps others waiting.
// When its slice is over it need not be so: what is unread then is for its next turn.
func (g *Gate) directQuiet(a *app) bool {
	if a.guests {
		g.stamp = 0
		if a.waitedFor() && g.now() < a.turnFrom+freshLimit {
			return false
		}
		g.meet(a)
	}
	if len(a.direct) == 0 {
		return true
	}
	g.stamp = 0
	if g.now() >= g.sched.sliceEnd() {
		return true
	}
	h, ok := a.inst.(engine.SocketHolder)
	return !ok || g.staysEmpty(h, a)
}

// staysEmpty looks a few times whether there is something to read on one of the connections of a, which runs. If not, it
// leaves the duplicates that it has made to the parking that follows.
func (g *Gate) staysEmpty(h engine.SocketHolder, a *app) bool {
	from := g.now()
	for _, d := range a.direct {
		fd, err := h.DuplicateSocket(d.sock)
		if err != nil {
			continue // closed, or the instance has died: both are noticed elsewhere
		}
		if len(a.direct) <= manyDirect {
			d.dup = fd
		}
		busy := unread(fd)
		if d.dup < 0 {
			_ = unix.Close(fd)
		}
		if busy {
			g.letGo(a)
			return false
		}
	}
	for looks := 1; looks < directSamples && len(a.direct) <= manyDirect; looks++ {
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		if a.hasUnread() {
			g.letGo(a)
			return false
		}
		g.stamp = 0
		if g.now() > from+directSpan {
			break
		}
	}
	return true
}

// hasUnread reports whether there is something to read on one of the direct connections of which the gate has a duplicate.
func (a *app) hasUnread() bool {
	return slices.ContainsFunc(a.direct, func(d *direct) bool { return d.dup >= 0 && unread(d.dup) })
}

// discover takes over the direct connections that a former gate has left in a's instance.
func (g *Gate) discover(a *app) {
	h, ok := a.inst.(engine.SocketHolder)
	if !ok {
		return
	}
	list, err := h.AcceptedSockets()
	if errors.Is(err, engine.ErrGone) {
		return // its pidfd tells, or it has been replaced
	}
	if err != nil {
		g.logApp(a).WithError(err).Error("cannot look for direct connections")
		return
	}
	known := make(map[uint64]bool, len(a.direct)+len(a.conns))
	for _, d := range a.direct {
		known[d.sock.Inode] = true
	}
	for _, c := range a.conns {
		known[g.peer(c)] = true
	}
	for _, s := range list {
		if !known[s.Inode] {
			g.lastID++
			g.addDirect(a, g.lastID, g.endpointOf(s), s)
		}
	}
}
