package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

const (
	// budgetEvery is how often is looked what the service holds and who has run.
	budgetEvery = 250 * time.Millisecond
	// slack is the part of a memory budget, one in so many, that is freed on top once it is exceeded.
	slack = 20
	// evictAfter is for how long a dormant instance must not have run before it is ended: a long reply may be under way.
	evictAfter = 500 * time.Millisecond
	// patience is for how long a budget may be exceeded before anybody hears of it: those who are busy now may not be then.
	patience = 5 * time.Second
	// complainEvery is how often the log says that a budget cannot be kept.
	complainEvery = time.Minute
)

// budget keeps what the service holds to what its policy allows. When that is exceeded, spares go first, then checkpoints that
// nothing needs, then the instances of the apps that have been idle longest. What they hold is not lost: it is in a checkpoint
// before the instance is ended, and the app's next request has it branched.
//
// All of it happens on one goroutine. A nil *budget is none.
type budget struct {
	m      *Monitor
	memory int64 // bytes; 0: no limit
	count  int   // of instances; 0: no limit
	usage  *usage
	wake   chan struct{}
	tight  atomic.Bool // there is no room for what is merely useful
	used   atomic.Int64
	since  atomic.Int64 // when it was first seen to be exceeded and could not be helped, in nanoseconds of Unix time; 0: it is kept
	said   time.Time
}

// newBudget makes the budget of the service; nil if its policy has none.
func (m *Monitor) newBudget() (*budget, error) {
	if m.svc.MemoryBudget == 0 && m.svc.Instances == 0 {
		return nil, nil
	}
	if _, one := m.eng.(engine.Signaller); one || m.inDriver() || m.broker != nil {
		m.log.Warn("memory-budget and instances have no effect: the engine's instances are one process, and none can be ended to make room")
		return nil, nil
	}
	b := &budget{m: m, memory: m.svc.MemoryBudget, count: m.svc.Instances, wake: make(chan struct{}, 1)}
	if b.memory == 0 {
		return b, nil
	}
	var err error
	if b.usage, err = usageOf(m.rec.PID, os.Getpid()); err != nil {
		return nil, fmt.Errorf("memory-budget: %w", err)
	}
	return b, nil
}

// nudge has the goroutine look at once.
func (b *budget) nudge() {
	if b == nil {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// roomy reports whether there is room for a spare.
func (b *budget) roomy() bool { return b == nil || !b.tight.Load() }

// run keeps the budget until ctx is done.
func (b *budget) run(ctx context.Context) {
	tick := time.NewTicker(budgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.observe(time.Now())
		case <-b.wake:
		}
		if err := b.keep(ctx); err != nil && ctx.Err() == nil {
			b.complain(err)
		}
	}
}

// observe notes who has run since it was called last.
func (b *budget) observe(now time.Time) {
	for _, h := range b.m.allHoldings() {
		if !h.mu.TryLock() {
			h.ran.Store(now.UnixNano()) // something is being done with it
			continue
		}
		if h.inst != nil {
			if cpu := cpuTime(h.inst); cpu != h.seen {
				h.seen = cpu
				h.ran.Store(now.UnixNano())
			}
		}
		h.mu.Unlock()
	}
}

// over says by how many instances and bytes the budget is exceeded; 0 where it is not.
func (b *budget) over() (instances int, bytes int64, err error) {
	if b.count > 0 {
		instances = max(0, b.m.ledger.live()-b.count)
	}
	if b.memory == 0 {
		return instances, 0, nil
	}
	used, err := b.usage.bytes(b.memory - b.memory/slack)
	if err != nil {
		return 0, 0, err
	}
	b.used.Store(used)
	b.tight.Store(used > b.memory-b.memory/slack)
	return instances, max(0, used-b.memory), nil
}

// keep ends what has to go. Once the budget is exceeded it is undercut by some, so that this is not done for every page.
func (b *budget) keep(ctx context.Context) error {
	instances, bytes, err := b.over()
	if err != nil || instances == 0 && bytes == 0 {
		b.since.Store(0)
		return err
	}
	short := bytes > 0
	if short {
		done, err := b.keepMemory(ctx)
		if err != nil || done {
			b.since.Store(0)
			return err
		}
	}
	for _, h := range b.idlest() {
		if instances, _, err = b.over(); err != nil {
			return err
		}
		if short = short && b.excess() > 0; instances == 0 && !short || ctx.Err() != nil {
			b.since.Store(0)
			return nil
		}
		why := fmt.Sprintf("instances: %d are allowed", b.count)
		if short {
			why = fmt.Sprintf("memory-budget: %s of %s are used", instance.FormatBytes(b.used.Load()), instance.FormatBytes(b.memory))
		}
		b.m.evictIdle(ctx, h, why)
	}
	if instances, bytes, err = b.over(); err != nil || instances == 0 && bytes == 0 {
		b.since.Store(0)
		return err
	}
	b.since.CompareAndSwap(0, time.Now().UnixNano())
	return fmt.Errorf("the budget is exceeded, by %d instances and %s, and there is no idle app left to evict; "+
		"way out: a larger budget, or connections that are not kept busy", instances, instance.FormatBytes(bytes))
}

// excess is what has to go of the memory.
func (b *budget) excess() int64 {
	if b.memory == 0 {
		return 0
	}
	return b.used.Load() - (b.memory - b.memory/slack)
}

// keepMemory frees what no app would miss, and reports whether that is enough.
func (b *budget) keepMemory(ctx context.Context) (bool, error) {
	enough := func() (bool, error) {
		_, _, err := b.over()
		return b.excess() <= 0, err
	}
	if b.m.spares.yield() {
		b.m.metrics.evictions.WithLabelValues("spares").Inc()
		if done, err := enough(); done || err != nil {
			return done, err
		}
	}
	for _, c := range b.m.ledger.surplus() {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if b.m.discardSurplus(c) {
			b.m.metrics.evictions.WithLabelValues("checkpoint").Inc()
			if done, err := enough(); done || err != nil {
				return done, err
			}
		}
	}
	return false, nil
}

// discardSurplus discards a checkpoint that was surplus a moment ago. It reports whether that was done.
func (m *Monitor) discardSurplus(c instance.Checkpoint) bool {
	h := m.find(c.App)
	h.mu.Lock()
	defer h.mu.Unlock()
	now, err := m.ledger.history(c.App)
	if err != nil || h.left || now.Head == c.ID {
		return false
	}
	i := slices.IndexFunc(now.Checkpoints, func(x instance.Checkpoint) bool { return x.ID == c.ID })
	if i < 0 || i == len(now.Checkpoints)-1 || len(now.Checkpoints[i].Tags) > 0 {
		return false
	}
	if err := m.ledger.discarded(c.App, c.ID, "memory-budget"); err != nil {
		m.log.WithField("app", string(c.App)).WithError(err).Error("cannot discard a checkpoint to keep to the memory budget")
		return false
	}
	m.discard(h, []instance.ID{c.ID})
	return true
}

// idlest lists the apps that have an instance and are idle, the one that has been idle longest first.
func (b *budget) idlest() []*holding {
	var list []*holding
	now := time.Now().UnixNano()
	for _, h := range b.m.allHoldings() {
		if !h.mu.TryLock() { // something is being done with it
			continue
		}
		live := h.inst != nil && !h.left
		asleep := live && h.inst.Dormant()
		h.mu.Unlock()
		h.ran.CompareAndSwap(0, now) // it is new
		// One that is not parked may have timers that keep it running: the gate knows whether it has anything to do.
		if live && (!asleep || now-h.ran.Load() >= int64(evictAfter)) {
			list = append(list, h)
		}
	}
	slices.SortStableFunc(list, func(x, y *holding) int { return int(min(1, max(-1, x.ran.Load()-y.ran.Load()))) })
	return list
}

// makeRoom evicts the app that has been idle longest, because something could not be made for want of what its instance takes. It
// reports whether there was one. The caller may hold other apps' locks.
func (b *budget) makeRoom(ctx context.Context) bool {
	if b == nil {
		return false
	}
	for _, h := range b.idlest() {
		if b.m.evictIdle(ctx, h, "a limit was reached") {
			return true
		}
	}
	return false
}

// evictIdle evicts h's app if nothing is under way with it, and reports whether that was done.
func (m *Monitor) evictIdle(ctx context.Context, h *holding, why string) bool {
	err := m.evict(ctx, h, why)
	log := m.log.WithFields(logrus.Fields{"app": string(h.app)})
	switch {
	case err == nil:
		log.WithField("reason", why).Debug("app evicted")
		return true
	case errors.Is(err, engine.ErrBusy), errors.Is(err, ErrNoInstance), errors.Is(err, engine.ErrGone), ctx.Err() != nil:
		return false
	}
	log.WithError(err).Warn("the app cannot be evicted")
	return false
}

// complain says in the log, every now and then, that the budget is not kept.
func (b *budget) complain(err error) {
	since := b.since.Load()
	if since != 0 && time.Since(time.Unix(0, since)) < patience || time.Since(b.said) < complainEvery {
		return
	}
	b.said = time.Now()
	b.m.log.WithError(err).Warn("the budget is not kept")
}
