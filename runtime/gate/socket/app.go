package socket

import (
	"errors"
	"sync/atomic"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

type phase int

const (
	phaseEmpty   phase = iota // no instance, and nobody has asked for one
	phaseBusy                 // a worker has the app: its requests wait
	phaseReady                // the instance serves
	phaseLeaving              // the app has ended, and its instance is ending
	phaseDown                 // quarantined or stopped: connections are answered with the crash reply
)

const (
	parkLimit   = 300 * time.Microsecond // that the loop waits for an instance to reach a boundary
	settleRetry = 200_000                // ns between two looks whether an instance has become quiet
	settleLimit = 100_000_000            // ns after which transactions without an end are no longer waited for
	forceLimit  = 1_000_000_000          // ns after which Hold parks an instance at any instruction
	freshLimit  = 10_000_000             // ns that an instance gets for accepting a connection
	maxPause    = 10_000_000_000         // ns between two turns of an app of which nobody knows what it waits for
	idleLimit   = 100_000_000            // ns without a byte after which a parallel instance is parked
)

// An app is everything that the loop knows of one app. Only the loop touches it, except for the counters.
type app struct {
	alarms alarms
	key    instance.App
	seat   seat
	phase  phase
	inst   engine.Instance // nil without one
	slot   int32           // of its pidfd, 0 if that is not watched
	conns  []*conn         // in no order

	ready    []*conn // have input that was not admitted
	undialed []*conn // came while the instance was held, or its backlog had no room
	fresh    []*conn // not known to be accepted by the service
	dirty    []*conn // got bytes since the app was last quiet

	direct   []*direct // connections that the gate has nothing to do with
	swept    int       // how many of them were looked at
	names    []string  // of its listeners, for the app to be led to
	doors    []door    // to its instance, if it is led there
	led      bool
	used     uint32 // how often, when that was last looked at
	usedAt   int64  // when that had changed
	withheld bool   // led, but not while somebody else has the instance
	promised bool   // the loop is about to hear that the app has claimed a spare
	guests   bool   // there may be connections in the instance that are not known

	calmFrom  int64   // when its sockets were begun to be watched
	lull      int     // turns in a row that it was given without knowing what for
	former    bool    // its instance may have some that an earlier gate made
	handing   []*conn // to become direct once the service has accepted them
	handPause int64   // ns before the next look whether it has
	proxied   string  // why connections of a do not become direct; "": they do

	open     int   // transactions under way, without the long ones
	long     int   // transactions that outlasted a quantum; nobody waits for them any more
	turnFrom int64 // when the instance became active
	lastUse  int64 // when bytes were last forwarded to the instance
	bulkAt   int64 // when the last big piece of a reply came

	timerAt   int64 // when the dormant instance is to be activated for something that it waits for; 0: it has to be asked
	timerTurn int64 // when it last was
	timely    bool  // that is what its next turn is for
	asking    bool  // a worker does so

	evicted bool // it has no instance until it needs one: its connections are open and wait

	unfinished bool // parked where it would have gone on: it needs a turn although nobody asks for one

	forwards uint64 // pieces of requests forwarded
	boundAt  int64  // when the instance was last parked at a boundary
	diedAt   int64  // when the last instance died
	speakBy  int64  // when its unsure connections are closed

	client  int   // pidfd of the process that the app is, -1: none
	watched int32 // its slot
	gone    bool  // that process has ended

	due        string // why a checkpoint is due, "" if none is
	holds      []*hold
	settleFrom int64 // since when a boundary has been wanted; 0: it is not
	saving     bool  // a's last checkpoint is not complete; the next boundary has to wait for that
	answered   int   // transactions since the last checkpoint
	ckptAt     int64 // when the last checkpoint was taken
	downErr    error // in phaseDown
	counters   *counters
}

// counters are written by the loop and read by Stats.
type counters struct {
	conns                        atomic.Int64
	transactions, switches       atomic.Uint64
	bytesIn, bytesOut, waitingNs atomic.Uint64
	breaks                       atomic.Uint64
	direct                       atomic.Int64
	untracked                    atomic.Bool // there have been direct connections
	proxied                      atomic.Pointer[string]
	led                          atomic.Bool
	unled                        atomic.Pointer[string]
}

// stats are those of one app. reason is why nothing of any app is direct, and unled why none is led, if that is so.
func (c *counters) stats(key instance.App, reason string, unled *string) gate.AppStats {
	if r := c.proxied.Load(); r != nil {
		reason = *r
	}
	if r := c.unled.Load(); r != nil {
		unled = r
	}
	if unled == nil {
		unled = new(string)
	}
	return gate.AppStats{
		App: key, Connections: int(c.conns.Load()),
		Transactions: c.transactions.Load(), Switches: c.switches.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		Waiting: time.Duration(c.waitingNs.Load()), Breaks: c.breaks.Load(),
		Direct: int(c.direct.Load()), Untracked: c.untracked.Load(), Proxied: reason,
		Led: c.led.Load(), Unled: *unled,
	}
}

// admit reports whether a request of a may be forwarded now. If not, the app is queued for a turn.
func (g *Gate) admit(a *app) bool {
	if a.phase != phaseReady || a.settleFrom != 0 {
		return false
	}
	if !g.strict {
		return true
	}
	if g.sched.runs(&a.seat) && g.sched.head == nil {
		return true
	}
	now := g.now()
	if g.sched.admits(&a.seat, now) {
		return true
	}
	g.sched.want(&a.seat, false, now)
	return false
}

// rouse makes sure that a's instance will run although no request may come: it has a connection to accept, or to
// notice the end of one.
func (g *Gate) rouse(a *app) {
	switch {
	case a.phase != phaseReady:
	case g.strict:
		g.sched.want(&a.seat, false, g.now())
	default:
		g.activate(a)
	}
}

// activate lets the instance run. Bytes for it have been written before.
func (g *Gate) activate(a *app) {
	if !a.inst.Dormant() {
		return
	}
	a.turnFrom = g.now()
	if err := a.inst.Activate(); err != nil && !errors.Is(err, engine.ErrGone) {
		g.logApp(a).WithError(err).Error("cannot activate the instance")
	}
	g.runs(a)
	g.letGo(a)
	if !g.strict && len(a.direct) == 0 {
		g.clock.set(&a.alarms, alarmIdle, a.turnFrom+idleLimit)
	}
	if len(a.handing) > 0 {
		g.handSoon(a)
	}
}

// quiet reports whether a's instance is at a transaction boundary as far as bytes can tell: every request has
// been consumed and answered, and every connection accepted. Park tells the rest.
func (g *Gate) quiet(a *app) bool {
	if a.open > 0 || a.bulkAt != 0 && g.now() < a.bulkAt+settleRetry {
		return false
	}
	keep := a.dirty[:0]
	for _, c := range a.dirty {
		if c.closed || c.long || c.s.fd < 0 || (!c.up.pending() && unconsumed(c.s.fd) <= 0) {
			c.dirty = false
			continue
		}
		keep = append(keep, c)
	}
	a.dirty = keep
	return len(keep) == 0 && g.acceptedAll(a)
}

// acceptedAll reports whether the service has accepted every connection, or had time to.
func (g *Gate) acceptedAll(a *app) bool {
	if len(a.fresh) == 0 {
		return true
	}
	keep := a.fresh[:0]
	for _, c := range a.fresh {
		if !c.fresh || c.closed {
			continue
		}
		if g.peer(c) != 0 {
			c.fresh = false
			continue
		}
		keep = append(keep, c)
	}
	a.fresh = keep
	return len(keep) == 0 || g.now() > a.turnFrom+freshLimit
}

// giveUpOn stops waiting for the transactions that are under way.
func (g *Gate) giveUpOn(a *app) {
	for _, c := range a.conns {
		if c.open && !c.long {
			c.long = true
			a.open--
			a.long++
		}
	}
}

// turns carries out what the schedule decides.
func (g *Gate) turns() {
	g.takeTurns()
	g.watchHalted()
}

func (g *Gate) takeTurns() {
	for {
		if g.sched.running && g.sched.cur.owner.phase == phaseLeaving {
			return // its pidfd is about to tell
		}
		quiet := false
		if g.sched.undecided() {
			quiet = g.atBoundary(g.sched.cur.owner)
		}
		v, at := g.sched.step(g.now(), quiet)
		switch v {
		case begin:
			g.begin()
		case park, breakIn:
			if !g.endTurn(v) {
				return
			}
		case stay:
			if quiet {
				g.letGo(g.sched.cur.owner)
			}
			if g.sched.relieved() {
				g.sched.cur.again = false
				g.admitWaiting(g.sched.cur.owner)
			}
			if at != 0 {
				switch a := g.sched.cur.owner; { // no event will tell
				case quiet:
				case len(a.direct) > 0:
					at = min(at, g.now()+directLook)
				case a.open == 0:
					at = min(at, g.now()+settleRetry)
				}
				g.clock.set(&g.alarms, alarmTurn, at)
			}
			return
		}
	}
}

// atBoundary is quiet for the purpose of ending a turn: one that was given to unfinished transactions lasts.
func (g *Gate) atBoundary(a *app) bool {
	if a.seat.resume && a.wantsMore() {
		return false
	}
	return g.quiet(a) && g.directQuiet(a)
}

// endTurn parks the running instance.
func (g *Gate) endTurn(v verdict) bool {
	a := g.sched.cur.owner
	a.unfinished = a.heldBack()
	g.settleHalted(g.sched.head)
	err := halt(a)
	if v == breakIn && errors.Is(err, engine.ErrBusy) {
		err, a.unfinished = a.inst.Park(0), true
		a.counters.breaks.Add(1)
	}
	switch {
	case err == nil, errors.Is(err, engine.ErrGone): // the pidfd tells the loop about the latter
	case errors.Is(err, engine.ErrBusy):
		g.letGo(a)
		g.sched.busy(g.now())
		g.clock.set(&g.alarms, alarmTurn, g.now()+parkRetry)
		return false
	default:
		g.letGo(a)
		g.logApp(a).WithError(err).Error("cannot park the instance; it goes on running")
	}
	a.unfinished = a.unfinished || err == nil && g.unattended(a)
	if err == nil && v == park && !a.unfinished && !a.seat.again {
		a.boundAt = g.now()
	}
	g.sched.parked(g.now())
	if v == breakIn {
		g.giveUpOn(a)
	}
	if a.wantsMore() {
		g.pause(a)
	}
	g.halted = append(g.halted, a)
	return true
}

// heldBack reports whether the service may be waiting until its replies are taken.
func (a *app) heldBack() bool {
	for _, c := range a.conns {
		if c.down.pending() {
			return true
		}
	}
	return false
}

// wantsMore reports whether a needs turns without anybody asking for them.
func (a *app) wantsMore() bool { return a.long > 0 || a.unfinished }

// pause plans the next turn for transactions that did not end in this one. A turn that was not enough is doubled,
// up to a quantum; the pauses are long enough to leave most of the time to the others.
func (g *Gate) pause(a *app) {
	if a.seat.resume && a.seat.grant < maxQuantum {
		a.seat.grant *= 2
	} else if !a.seat.resume {
		a.seat.grant = firstGrant
	}
	g.clock.set(&a.alarms, alarmResume, g.now()+min(resumeBackoff*a.seat.grant<<min(a.lull, 10), max(maxPause, resumeBackoff*a.seat.grant)))
}

// begin gives the next app its turn: its requests are in the sockets before its instance wakes.
func (g *Gate) begin() {
	last := g.sched.cur
	x := g.sched.begin(g.now())
	a := x.owner
	if last != x {
		a.counters.switches.Add(1)
	}
	a.turnFrom = g.now()
	g.admitWaiting(a)
	if a.phase == phaseReady {
		g.dialWaiting(a)
		g.activate(a)
	}
	if a.timely {
		a.timely = false
		g.sched.busy(g.now()) // it needs a moment although no request shows that it is at work
	}
}

// admitWaiting forwards what a's connections have been holding back.
func (g *Gate) admitWaiting(a *app) {
	waiting := a.ready
	a.ready = g.spare[:0]
	for i, c := range waiting {
		waiting[i] = nil
		c.waiting = false
		if c.waitFrom != 0 {
			a.counters.waitingNs.Add(uint64(g.now() - c.waitFrom))
			c.waitFrom = 0
		}
		g.pump(c)
	}
	g.spare = waiting[:0]
}

// count notes an answered transaction and whether it makes a checkpoint due.
func (g *Gate) count(a *app) {
	a.counters.transactions.Add(1)
	a.answered++
	if g.strict && g.sched.runs(&a.seat) {
		g.sched.answered(g.now())
	}
	switch p := &g.cfg.Service.Checkpoint; p.Mode {
	case spec.CheckpointEvery:
		if a.answered >= p.N && a.due == "" {
			g.wantCheckpoint(a, string(p.Mode))
		}
	case spec.CheckpointInterval:
		if a.answered == 1 {
			g.clock.set(&a.alarms, alarmInterval, max(g.now(), a.ckptAt+int64(p.Interval)))
		}
	}
}
