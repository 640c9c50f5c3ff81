package socket

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// haltedFor is for how long, in nanoseconds, the loop waits for the app that had the last turn to come back.
const haltedFor = 50_000

// An instance whose turn is over is only halted as long as its app may be back in a moment, as it is when two of them talk in
// turns: then it goes on from where it stands. It is parked when nothing comes, and before anything else is done than
// having it take a turn. Two are halted only while one gives way to the other.

// halt stops a's instance so that another one can run.
func halt(a *app) error {
	if h, ok := a.inst.(engine.Halter); ok {
		return h.Halt(parkLimit)
	}
	return a.inst.Park(parkLimit)
}

// runs notes that a's instance is not halted any more.
func (g *Gate) runs(a *app) {
	if i := slices.Index(g.halted, a); i >= 0 {
		g.halted = slices.Delete(g.halted, i, i+1)
	}
}

// settleHalted parks the instances that are halted, except that of next, whose turn it is about to be.
func (g *Gate) settleHalted(next *seat) {
	g.halted = slices.DeleteFunc(g.halted, func(a *app) bool {
		if next == &a.seat {
			return false
		}
		if h, ok := a.inst.(engine.Halter); ok {
			if err := h.Settle(); err != nil && !errors.Is(err, engine.ErrGone) {
				g.logApp(a).WithError(err).Error("cannot park the instance; it goes on running")
			}
		}
		g.arm(a)
		return true
	})
}

// watchHalted has the loop told when the app that had the last turn comes back.
func (g *Gate) watchHalted() {
	for _, a := range g.halted {
		if len(a.direct) == 0 {
			g.settleHalted(nil) // what its connections bring is the loop's to forward, which may ask more of it
			return
		}
	}
	for _, a := range g.halted {
		if g.fetch(a); a.hasUnread() {
			g.knocked(a) // already: there is nothing to wait for
			continue
		}
		g.arm(a)
	}
}

// backSoon is how long the loop may wait, in nanoseconds, for the app whose instance is halted.
func (g *Gate) backSoon() int64 {
	if g.sched.head != nil {
		return 0
	}
	return haltedFor
}

// cameBack reports whether all that has happened is that the app whose instance is halted is to take a turn.
func (g *Gate) cameBack(events []unix.EpollEvent) bool {
	if len(events) > 1 || len(g.halted) != 1 || len(g.work)+len(g.again)+len(g.settling)+len(g.over)+len(g.handing) > 0 {
		return false
	}
	if at := g.clock.next(); at != 0 && at <= g.now() {
		return false
	}
	if len(events) == 0 {
		return g.sched.head == &g.halted[0].seat
	}
	en := &g.entries[events[0].Fd]
	return en.gen == events[0].Pad && en.kind == slotDirect && en.app == g.halted[0]
}
