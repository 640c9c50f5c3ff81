package service

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

const (
	// spareAfter is how long an app has to be at the same checkpoint before a spare of it is made: a service that is
	// captured after every request shall not spend its time on instances that nobody gets.
	spareAfter = 20 * time.Millisecond
	// spareShare is the part of its time, one in so many, that making spares of one app may take.
	spareShare = 10
	// baseAfter is the same for new apps while half of their spares are left: the one that took the last has sent its first
	// request by then.
	baseAfter = time.Millisecond
	// endAfter is how long instances that nobody uses any more wait for their end: whoever comes after them, or gets what
	// takes their place, needs the processors now.
	endAfter = time.Millisecond
	// maxRetired is how many may wait for it, and half of these for spares, too, while there are few.
	maxRetired = 64
	// spareRetry is how long no spare is made after one that could not be, or for which there was no room.
	spareRetry = 5 * time.Second
	// maxAppSpares is how many apps have spares; the ones made first go first.
	maxAppSpares = 64
)

// spare is an instance that nobody has yet: dormant, complete, under connections of its own.
type spare struct {
	inst    engine.Instance
	plumbed []engine.Plumbed
	from    instance.ID
	handle  json.RawMessage // of the instance
}

func (s *spare) alive() bool { return !dead(s.inst.PIDFD()) }

// give hands the spare over. Connections that are not in open have ended since it was made.
func (s *spare) give(open []engine.ConnID) gate.Replacement {
	rep := gate.Replacement{Instance: s.inst}
	for _, p := range s.plumbed {
		if slices.Contains(open, p.ID) {
			rep.Plumbed = append(rep.Plumbed, p)
		} else {
			_ = unix.Close(p.FD)
		}
	}
	return rep
}

// end clears the spare away.
func (s *spare) end() error {
	return discardReplacement(gate.Replacement{Instance: s.inst, Plumbed: s.plumbed})
}

// spares keeps instances ready, of the base for new apps and of the checkpoint that each app is at, so that a crash, a
// restore and a new app cost a switch. All of it happens on one goroutine, when nobody waits for anything. A spare is
// not on record: one that is left by a monitor that died is swept away by the next.
//
// A nil *spares keeps none. A holding's spare is guarded by the holding's lock, which is taken before mu.
type spares struct {
	m       *Monitor
	base    int         // how many of the base
	roomy   func() bool // whether there is room for what is merely useful
	wake    chan struct{}
	cancel  context.CancelFunc
	stopped chan struct{}
	taken   atomic.Uint64
	warmth  warmth

	mu      sync.Mutex
	pool    []*spare               // of the base
	due     map[*holding]time.Time // when a spare is to be made
	owners  []*holding             // that have one, the one made first first
	baseDue time.Time
	retired []engine.Instance // to be ended
	endDue  time.Time         // when the first of them is
	stale   []*spare          // to be ended
	resting time.Time         // until then none is made
	cost    time.Duration     // of the last one
	down    bool              // no more
}

// startSpares begins to keep spares if the service's policy and engine allow for them. Instances that are one process,
// or whose objects others refer to, are not made ahead of time.
func (m *Monitor) startSpares(roomy func() bool) {
	if _, one := m.eng.(engine.Signaller); one || m.svc.Spares == 0 || m.inDriver() || m.broker != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &spares{
		m: m, base: m.svc.Spares, wake: make(chan struct{}, 1), cancel: cancel, stopped: make(chan struct{}),
		roomy: roomy, due: map[*holding]time.Time{}, baseDue: time.Now().Add(spareAfter),
	}
	s.warmth.by, _ = m.eng.(engine.Warmer)
	m.spares = s
	for _, h := range m.allHoldings() {
		h.mu.Lock()
		s.want(h)
		h.mu.Unlock()
	}
	go s.run(ctx)
}

// close stops making spares and ends those of the base. The holdings' are ended with the holdings.
func (s *spares) close() error {
	if s == nil {
		return nil
	}
	s.cancel()
	<-s.stopped
	s.mu.Lock()
	s.down = true
	stale := append(s.stale, s.pool...)
	s.stale, s.pool = nil, nil
	s.mu.Unlock()
	var errs []error
	for _, x := range stale {
		errs = append(errs, x.end())
	}
	return errors.Join(append(errs, s.endRetired())...)
}

// nudge has the goroutine look what there is to do.
func (s *spares) nudge() {
	if s == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// want notes that h's app has come to another checkpoint, or may have. h.mu is held.
func (s *spares) want(h *holding) {
	if s == nil {
		return
	}
	s.plan(h)
	s.nudge()
}

// plan is want, which nudge has to follow.
func (s *spares) plan(h *holding) {
	head := s.m.ledger.head(h.app)
	if h.spare != nil && h.spare.from != head {
		s.drop(h)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.spare != nil || head == instance.Base || h.left || s.down {
		delete(s.due, h)
	} else {
		s.due[h] = time.Now().Add(max(spareAfter, spareShare*s.cost))
	}
}

// drop has h's spare, if there is one, ended. h.mu is held.
func (s *spares) drop(h *holding) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.due, h)
	if h.spare == nil {
		return
	}
	s.stale = append(s.stale, h.spare)
	h.spare = nil
	s.disown(h)
	s.nudge()
}

// disown forgets that h has a spare. s.mu is held.
func (s *spares) disown(h *holding) {
	s.owners = slices.DeleteFunc(s.owners, func(o *holding) bool { return o == h })
}

// retire has an instance ended that nobody uses any more, at the next nudge. Without spares that is done at once.
func (s *spares) retire(in engine.Instance) error {
	if s == nil {
		return ignoreGone(in.Kill())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return ignoreGone(in.Kill())
	}
	if len(s.retired) == 0 {
		s.endDue = time.Now().Add(endAfter)
	}
	s.retired = append(s.retired, in)
	return nil
}

// has reports whether take would find something for h. h.mu is held.
func (s *spares) has(h *holding, id instance.ID) bool {
	if s == nil {
		return false
	}
	if id != instance.Base {
		return h.spare != nil && h.spare.from == id && h.spare.alive()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.pool, (*spare).alive)
}

// take returns a spare in state id for h's app; nil if there is none. One that has died is cleared away, and nobody hears of
// it. The caller calls want when h is in order again. h.mu is held.
func (s *spares) take(h *holding, id instance.ID) (x *spare) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != instance.Base {
		if h.spare == nil || h.spare.from != id {
			return nil
		}
		x, h.spare = h.spare, nil
		s.disown(h)
		if !x.alive() {
			s.stale, x = append(s.stale, x), nil
		}
	} else {
		for x == nil && len(s.pool) > 0 {
			x, s.pool = s.pool[0], s.pool[1:]
			if !x.alive() {
				s.stale, x = append(s.stale, x), nil
			}
		}
		s.baseDue = time.Now()
		if len(s.pool) > s.base/2 {
			s.baseDue = s.baseDue.Add(baseAfter)
		}
	}
	if x != nil {
		s.taken.Add(1)
	}
	return x
}

// await returns once no spare of h's app is being made: to wait for it takes less time than to make another one. h.mu is
// held, and let go meanwhile.
func (s *spares) await(h *holding) {
	for h.making != nil {
		made := h.making
		h.mu.Unlock()
		<-made
		h.mu.Lock()
	}
}

// yield ends all spares, but those of apps with which something is being done, and what else waits for its end: something
// needs what they take up. It reports whether there was anything.
func (s *spares) yield() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	s.resting = time.Now().Add(spareRetry)
	owners := slices.Clone(s.owners)
	stale := append(s.stale, s.pool...)
	s.stale, s.pool = nil, nil
	retired := len(s.retired) > 0
	s.mu.Unlock()
	for _, h := range owners {
		if !h.mu.TryLock() {
			continue
		}
		if h.spare != nil {
			stale = append(stale, h.spare)
			h.spare = nil
			s.mu.Lock()
			s.disown(h)
			s.due[h] = time.Now().Add(spareRetry)
			s.mu.Unlock()
		}
		h.mu.Unlock()
	}
	s.mu.Lock()
	s.stale = append(s.stale, stale...)
	s.mu.Unlock()
	s.clear()
	return retired || len(stale) > 0
}

// count is how many spares there are, of the base and of apps.
func (s *spares) count() SparesView {
	if s == nil {
		return SparesView{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return SparesView{Base: len(s.pool), Apps: len(s.owners), Taken: s.taken.Load()}
}
