package socket

import (
	"context"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// timerLook is how long an instance has been dormant when it is asked what it waits for. One that is activated sooner is
// not asked at all.
const timerLook = int64(time.Millisecond)

// watchTimers has a's instance, which is dormant, activated when something that it waits for is due.
func (g *Gate) watchTimers(a *app) {
	if !g.timers.On || a.phase != phaseReady || !a.inst.Dormant() || a.asking {
		return
	}
	a.timerAt = 0
	g.clock.set(&a.alarms, alarmTimers, g.now()+timerLook)
}

// lookAtTimers asks a's instance, or activates it if it is time.
func (g *Gate) lookAtTimers(a *app) {
	if a.phase != phaseReady || !a.inst.Dormant() || a.asking {
		return // it is watched again when it is dormant the next time
	}
	if a.timerAt == 0 {
		g.askTimers(a)
		return
	}
	if g.now() < a.timerAt {
		g.clock.set(&a.alarms, alarmTimers, a.timerAt)
		return
	}
	a.timerAt, a.timerTurn = 0, g.now()
	if !g.strict {
		g.activate(a)
		return
	}
	if a.seat.grant == 0 {
		a.seat.grant = firstGrant
	}
	a.timely = true
	g.sched.want(&a.seat, true, g.now())
}

// askTimers asks a's instance beside the loop: it takes a look at all its descriptors.
func (g *Gate) askTimers(a *app) {
	inst := a.inst
	in, ok := inst.(engine.Timed)
	if !ok {
		if !g.untimed {
			g.untimed = true
			g.log.Warn("dormant-timers has no effect: the engine does not tell when an instance's timers are due")
		}
		return
	}
	a.asking = true
	since := a.turnFrom
	g.background(func(context.Context) func() {
		at, ok := in.Deadline()
		return func() {
			a.asking = false
			if a.phase != phaseReady || !a.inst.Dormant() {
				return
			}
			if a.inst != inst || a.turnFrom != since { // it has run meanwhile
				g.watchTimers(a)
				return
			}
			if !ok {
				return
			}
			a.timerAt = int64(at.Sub(g.start)) + 1
			if g.timers.AtMost > 0 && a.timerTurn != 0 {
				a.timerAt = max(a.timerAt, a.timerTurn+int64(g.timers.AtMost))
			}
			a.timerAt = max(a.timerAt, g.now())
			g.clock.set(&a.alarms, alarmTimers, a.timerAt)
		}
	})
}
