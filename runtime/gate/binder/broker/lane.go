package broker

import (
	"errors"
	"sync"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

const (
	// parkLimit is how long an instance may take to come to rest when its turn is over. Then it is parked wherever it is.
	parkLimit = 100 * time.Millisecond
	// onewayLimit is how long a oneway transaction may keep others waiting.
	onewayLimit = 100 * time.Millisecond
)

// lane is a queue of transactions whose apps take turns. It is guarded by Broker.mu.
type lane struct {
	now       *app // whose turn it is; its instance is active unless it has died. nil: nobody's
	under     int  // transactions under way, all of now
	switching bool // somebody is about to end one turn and begin another, without mu
	switched  *sync.Cond
	queue     []*waiter
}

func (b *Broker) newLane() *lane { return &lane{switched: sync.NewCond(&b.mu)} }

// quiet waits until nobody parks or activates an instance of the lane.
func (l *lane) quiet() {
	for l.switching {
		l.switched.Wait()
	}
}

// settled ends switching.
func (l *lane) settled() {
	l.switching = false
	l.switched.Broadcast()
}

// waiter is a transaction that waits for its app's turn.
type waiter struct {
	app  *app
	wake chan verdict // with room for one
}

// verdict is what a waiter is woken for.
type verdict uint8

const (
	goOn     verdict = iota // the turn is its app's, and it is counted as under way
	doSwitch                // it is the one to begin its app's turn
	again                   // something has changed: it has to begin anew
)

var waiters = sync.Pool{New: func() any { return &waiter{wake: make(chan verdict, 1)} }}

var (
	errBusy  = errors.New("too many transactions wait")
	errStale = errors.New("the instance has died, and nothing was sent to it")
)

// enter waits until a transaction of a may go on, and returns the copies that it may use until leave.
func (b *Broker) enter(a *app) (*copies, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var begun time.Time
	for {
		if b.closed {
			return nil, ErrClosed
		}
		l := a.lane
		switch {
		case a.exclusive || a.wanted > 0:
			if begun.IsZero() {
				begun = time.Now()
			}
			if err := b.pause(a); err != nil {
				return nil, err
			}
			continue
		case a.inst == nil:
			if err := b.provide(a); err != nil {
				return nil, err
			}
			continue
		case l.now == a && len(l.queue) == 0 && !l.switching:
			a.users++
			l.under++
		default:
			if begun.IsZero() {
				begun = time.Now()
			}
			if ok, err := b.queue(a); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		}
		if !begun.IsZero() {
			a.waited += int64(time.Since(begun))
		}
		if a.copies.uses == 0 { // it has died, and nobody has noticed yet
			b.leaveLocked(a)
			return nil, errStale
		}
		a.copies.uses++
		return a.copies, nil
	}
}

// pause waits until something about a has changed.
func (b *Broker) pause(a *app) error {
	if b.waiting >= Threads-reserve {
		return errBusy
	}
	b.waiting++
	a.changed.Wait()
	b.waiting--
	return nil
}

// queue waits for a's turn. false: something has changed meanwhile. mu is held, but not while it waits.
func (b *Broker) queue(a *app) (bool, error) {
	if b.waiting >= Threads-reserve {
		return false, errBusy
	}
	l := a.lane
	w := waiters.Get().(*waiter)
	w.app = a
	l.queue = append(l.queue, w)
	a.users++
	b.waiting++
	l.next()
	b.mu.Unlock()
	v := <-w.wake
	b.mu.Lock()
	if v == doSwitch {
		b.turn(l)
		v = <-w.wake // turn has answered everybody of the app that was first, which is w's, or nobody's any more
	}
	b.waiting--
	w.app = nil
	waiters.Put(w)
	if v == again {
		a.users--
		a.changed.Broadcast()
		return false, nil
	}
	return true, nil
}

// next has the first in the queue begin its turn, if nothing stands in the way.
func (l *lane) next() {
	if l.switching || l.under > 0 || len(l.queue) == 0 {
		return
	}
	l.switching = true
	l.queue[0].wake <- doSwitch
}

// dismiss sends everybody away.
func (l *lane) dismiss() {
	if l.switching {
		return // the one who switches does it
	}
	for _, w := range l.queue {
		w.wake <- again
	}
	l.queue = l.queue[:0]
}

// turn ends the turn of whoever has it and begins that of the first in the queue. mu is held, but not while it switches.
func (b *Broker) turn(l *lane) {
	next := l.queue[0].app
	v := again
	// What is exclusive now was not when the first one came: its instance has died.
	if !b.closed && !next.exclusive && next.inst != nil {
		was, in := l.now, next.inst
		l.now = nil
		if was != nil && was != next {
			b.park(was)
		}
		b.mu.Unlock()
		err := in.Activate()
		b.mu.Lock()
		if err == nil {
			l.now, v = next, goOn
			if was != next {
				next.switches++
			}
		} else {
			b.logApp(next).WithError(err).Error("cannot activate the instance")
		}
	}
	l.settled()
	kept := l.queue[:0]
	for _, w := range l.queue {
		switch {
		case w.app != next && !b.closed:
			kept = append(kept, w)
		case v == goOn:
			l.under++
			w.wake <- goOn
		default:
			w.wake <- again
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
	l.next()
}

// leave ends a transaction and its use of the copies.
func (b *Broker) leave(a *app, c *copies) {
	b.mu.Lock()
	a.transactions++
	a.since++
	b.due(a)
	b.leaveLocked(a)
	b.mu.Unlock()
	b.drop(c)
}

func (b *Broker) leaveLocked(a *app) {
	a.users--
	a.lane.under--
	a.lane.next()
	if a.users == 0 {
		a.changed.Broadcast()
	}
}

// park parks a's instance at a boundary, or wherever it is if it does not come to one in time. mu is held, but not
// meanwhile.
func (b *Broker) park(a *app) {
	in, oneway := a.inst, a.oneway
	if in == nil {
		return
	}
	a.oneway = false
	b.mu.Unlock()
	if oneway {
		b.settle(a, in)
	}
	err := in.Park(parkLimit)
	broken := errors.Is(err, engine.ErrBusy)
	if broken {
		err = in.Park(0)
	}
	b.mu.Lock()
	if broken {
		a.breaks++
	}
	if err != nil && !errors.Is(err, engine.ErrGone) {
		b.logApp(a).WithError(err).Error("cannot park the instance; it goes on running")
	}
}

// settle waits until the instance has carried out what was sent to it oneway: parked, it would do that much later.
func (b *Broker) settle(a *app, in engine.Instance) {
	p, ok := in.(engine.BrokeredInstance)
	if !ok {
		return
	}
	for begun := time.Now(); time.Since(begun) < onewayLimit; time.Sleep(200 * time.Microsecond) {
		idle, err := p.BrokerIdle()
		if err != nil {
			b.logApp(a).WithError(err).Warn("cannot tell whether oneway transactions are under way")
			return
		}
		if idle {
			return
		}
	}
}

// rest makes the instance of an app, which the caller has to himself, dormant. mu is held, but not while it is parked.
func (b *Broker) rest(a *app) error {
	l := a.lane
	l.quiet() // it may be about a
	if a.inst == nil || a.inst.Dormant() {
		return nil
	}
	if l.now == a {
		l.switching, l.now = true, nil
		b.park(a)
		l.settled()
		l.next()
	} else {
		b.park(a)
	}
	if !a.inst.Dormant() {
		return engine.ErrGone
	}
	return nil
}
