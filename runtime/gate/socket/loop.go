package socket

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/instance"
)

type slotKind uint8

const (
	slotFree slotKind = iota
	slotWake
	slotListener
	slotApp     // the app's end of a connection
	slotService // the instance's end
	slotPIDFD
	slotClient // the process that an app is
	slotDirect // a duplicate of a direct connection
	slotDoor   // a duplicate of an instance's listener
)

// An entry says what a watched descriptor is. Events carry its index and generation, so that one that was
// reported before the descriptor was closed is not taken for another's.
type entry struct {
	kind slotKind
	gen  int32
	conn *conn
	app  *app
	ep   *endpoint
}

// now is the time since the gate was made, in nanoseconds; one reading serves a round.
func (g *Gate) now() int64 {
	if g.stamp == 0 {
		g.stamp = int64(time.Since(g.start)) + 1
	}
	return g.stamp
}

// run is the loop.
func (g *Gate) run(ctx context.Context) {
	for ctx.Err() == nil {
		timeout := int64(-1)
		if len(g.again)+len(g.work) > 0 { // settling and switching may have left work
			timeout = 0
		} else if at := g.clock.next(); at != 0 {
			g.stamp = 0
			timeout = max(0, at-g.now())
		}
		if soon := g.backSoon(); len(g.halted) > 0 && (timeout < 0 || timeout > soon) {
			timeout = soon
		}
		n, _ := wait(g.epfd, g.events[:], timeout) // an error can only be EINTR
		g.stamp, g.sent = 0, nil
		if len(g.halted) > 0 && !g.cameBack(g.events[:max(n, 0)]) {
			g.settleHalted(nil)
		}
		g.alone++
		if n != 1 {
			g.alone = 0
		}
		g.work, g.again = append(g.work, g.again...), g.again[:0]
		for i := range max(n, 0) {
			g.event(&g.events[i])
		}
		if g.clock.next() != 0 {
			g.ring()
		}
		for i := 0; i < len(g.work); i++ { // pumping may append
			c := g.work[i]
			g.work[i] = nil
			c.queued = false
			g.pump(c)
		}
		g.work = g.work[:0]
		for i := 0; i < len(g.settling); i++ {
			g.settle(g.settling[i])
		}
		g.settling = pruneSettled(g.settling)
		if len(g.over) > 0 {
			g.leaveAll()
		}
		if g.strict {
			g.turns()
		}
		if len(g.handing) > 0 {
			g.settleHalted(nil)
			g.handOverAll()
		}
		if g.alone >= aloneAfter && g.sent != nil {
			g.settleHalted(nil)
			g.converse(g.sent)
		}
	}
	g.settleHalted(nil)
}

// event notes what has happened to one descriptor.
func (g *Gate) event(ev *unix.EpollEvent) {
	en := &g.entries[ev.Fd]
	if en.gen != ev.Pad {
		return
	}
	switch en.kind {
	case slotApp:
		en.conn.a.note(ev.Events)
		g.queue(en.conn)
	case slotService:
		en.conn.s.note(ev.Events)
		g.queue(en.conn)
	case slotListener:
		g.accept(en.ep)
	case slotDoor:
		g.knockedAt(en.app, en.ep)
	case slotPIDFD:
		g.crashed(en.app)
	case slotClient:
		g.clientEnded(en.app)
	case slotDirect:
		g.knocked(en.app)
	case slotWake:
		g.takePosted()
	}
}

func (e *end) note(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.hup = true
	}
}

// ring handles the alarms that are due.
func (g *Gate) ring() {
	for {
		of, kind, ok := g.clock.due(g.now())
		if !ok {
			return
		}
		a := of.app
		switch kind {
		case alarmAccept:
			g.pauseAccept(false)
		case alarmDial:
			if a.phase == phaseReady {
				g.dialWaiting(a)
			}
		case alarmIdle:
			g.parkIdle(a)
		case alarmResume:
			if a.phase == phaseReady && a.wantsMore() {
				g.sched.want(&a.seat, true, g.now())
			}
		case alarmInterval:
			if a.phase == phaseReady && a.answered > 0 {
				g.wantCheckpoint(a, "interval")
			}
		case alarmUnsure:
			g.silence(a)
		case alarmPart:
			g.closeParting(a)
		case alarmLinger:
			g.endLinger(a)
		case alarmHandover:
			if len(a.handing) > 0 {
				g.handing = append(g.handing, a)
			}
		case alarmTimers:
			g.lookAtTimers(a)
		case alarmSweep:
			g.sweep(a)
		case alarmBeat:
			g.beat()
		case alarmTurn, alarmSettle: // the round itself looks at these
		}
	}
}

// parkIdle parks an instance that runs in parallel with others once it has nothing to do.
func (g *Gate) parkIdle(a *app) {
	if a.phase != phaseReady || a.inst.Dormant() {
		return
	}
	if g.meet(a); len(a.direct) > 0 {
		return // what a direct connection waits for is up to the instance
	}
	at := max(a.lastUse, a.turnFrom) + idleLimit
	if g.now() >= at {
		if a.long == 0 && g.quiet(a) && !a.waitedFor() && a.inst.Park(parkLimit) == nil {
			a.boundAt = g.now()
			g.attend(a)
			g.watchTimers(a)
			return
		}
		at = g.now() + idleLimit
	}
	g.clock.set(&a.alarms, alarmIdle, at)
}

// queue has c pumped in this round, or in the next one if this one is nearly over.
func (g *Gate) queue(c *conn) {
	if !c.queued && !c.closed {
		c.queued = true
		g.work = append(g.work, c)
	}
}

func (g *Gate) queueAgain(c *conn) {
	if !c.queued {
		c.queued = true
		g.again = append(g.again, c)
	}
}

// watch registers fd. Slot 0 is never given away.
func (g *Gate) watch(fd int, events uint32, en entry) (int32, error) {
	var slot int32
	if n := len(g.freeSlots); n > 0 {
		slot = g.freeSlots[n-1]
		g.freeSlots = g.freeSlots[:n-1]
	} else {
		slot = int32(len(g.entries))
		g.entries = append(g.entries, entry{})
	}
	en.gen = g.entries[slot].gen + 1
	g.entries[slot] = en
	ev := unix.EpollEvent{Events: events, Fd: slot, Pad: en.gen}
	if err := unix.EpollCtl(g.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		g.freeSlot(slot)
		return 0, err
	}
	return slot, nil
}

func (g *Gate) rewatch(fd int, slot int32, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: slot, Pad: g.entries[slot].gen}
	if err := unix.EpollCtl(g.epfd, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
		g.log.WithError(err).Error("cannot change what is watched")
	}
}

func (g *Gate) unwatch(fd int, slot int32) {
	if slot == 0 {
		return
	}
	// It fails only if the descriptor was closed by its owner, which unregisters it too.
	_ = unix.EpollCtl(g.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	g.freeSlot(slot)
}

func (g *Gate) freeSlot(slot int32) {
	g.entries[slot] = entry{gen: g.entries[slot].gen + 1}
	g.freeSlots = append(g.freeSlots, slot)
}

// lookUp finds the app of that key, or makes it.
func (g *Gate) lookUp(key instance.App) *app {
	if a := g.apps[key]; a != nil {
		return a
	}
	a := &app{key: key, counters: &counters{}, client: -1}
	a.alarms.app, a.seat.owner = a, a
	g.apps[key] = a
	g.statsMu.Lock()
	g.stats[key] = a.counters
	g.statsMu.Unlock()
	return a
}
