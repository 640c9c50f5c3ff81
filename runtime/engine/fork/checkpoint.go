package fork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

var _ engine.EarlyCheckpointer = (*service)(nil)

// Checkpoint implements engine.Service.
func (s *service) Checkpoint(ctx context.Context, inst engine.Instance, conns engine.Conns) (engine.Image, engine.Timing, error) {
	c, err := s.CheckpointEarly(ctx, inst, conns, nil)
	return c.Image, c.Timing, err
}

// CheckpointEarly implements engine.EarlyCheckpointer.
func (s *service) CheckpointEarly(ctx context.Context, inst engine.Instance, conns engine.Conns, resume func()) (engine.Captured, error) {
	start := time.Now()
	in, ok := inst.(*instance)
	if !ok || in.s != s {
		return engine.Captured{}, fmt.Errorf("instance %T belongs to another service", inst)
	}
	if !in.Dormant() {
		return engine.Captured{}, fmt.Errorf("checkpoint of an instance that runs: %w", engine.ErrBusy)
	}
	ctx, cancel := context.WithTimeout(ctx, opPatience)
	defer cancel()
	c := checkpoint{s: s, in: in, conns: conns}
	err := s.guard(in.a, func() error {
		if err := c.still(ctx); err != nil {
			return err
		}
		c.timing.Pause = time.Since(start)
		if resume != nil {
			resume()
		}
		return c.complete(ctx)
	})
	if err != nil {
		return engine.Captured{}, fmt.Errorf("checkpoint: %w", errors.Join(err, s.files.remove(c.files)))
	}
	s.track(c.img)
	c.timing.Total = time.Since(start)
	return engine.Captured{Image: c.img, Instance: c.handle, Timing: c.timing}, nil
}

// checkpoint is one that is under way.
type checkpoint struct {
	s     *service
	in    *instance
	conns engine.Conns

	plan    *plan
	open    func(fd int) bool // whether the instance has the descriptor, in the plan or not
	threads []threadState
	shared  []mapping
	files   tree
	use     filesInUse
	pages   []fileMapping // see privatePages
	limits  []byte        // text of the leader's /proc/PID/limits
	forked  *duplication
	x       *anchor // made of forked; nil: not yet
	timing  engine.Timing

	captured []threadState // threads, and what is pending for each
	signals  *signals
	mapped   uint64 // bytes of the instance's address space

	img    *image
	handle json.RawMessage
}

// still does what has to be done while the instance stands still.
func (c *checkpoint) still(ctx context.Context) (err error) {
	in := c.in
	if err := in.parkRest(); err != nil {
		return err
	}
	files := c.s.files.capture(in.files)
	defer func() {
		var e error
		if c.files, e = files.await(); e == nil && err == nil {
			e = c.s.files.save(c.files, in.leader.PID, c.plan)
		}
		if e != nil && err == nil {
			e = errors.Join(e, c.giveUp(ctx))
		}
		err = errors.Join(err, e)
	}()
	if c.shared, err = in.proc.sharedAnonymous(in.a.arena); err != nil {
		return err
	}
	if c.pages, err = c.s.files.privatePages(in.leader.PID); err != nil {
		return err
	}
	if err := in.parker.awaitParked(time.Now().Add(opPatience)); err != nil {
		return err
	}
	if err := in.refreshAdvice(); err != nil {
		return err
	}
	for fits := false; !fits; {
		if fits, err = c.fork(ctx); err != nil {
			return err
		}
	}
	in.shared, in.hidden = c.shared, c.plan.virtual()
	return nil
}

// giveUp ends the fork that has been made.
func (c *checkpoint) giveUp(ctx context.Context) (err error) {
	if c.x == nil {
		if c.x, err = c.forked.anchor(ctx); err != nil {
			return err
		}
	}
	return c.x.discard()
}

// fork forks the anchor and meanwhile reads what does not get into the image by itself. What the child must not share is
// not known then, so it is taken to be what it was last time. fits is false if it is not, in a way that cannot be put
// right in the child.
func (c *checkpoint) fork(ctx context.Context) (fits bool, err error) {
	in := c.in
	begun := time.Now()
	defer func() { c.timing.Fork = time.Since(begun) }()
	hidden := in.hidden
	if c.plan == nil && (hidden == nil || !translates()) {
		if err := c.read(); err != nil {
			return false, err
		}
	}
	if c.plan != nil {
		hidden = c.plan.virtual()
	}
	unshare, own, hide := unshareMappings(c.shared), ownPages(c.pages), placeholders(hidden)
	c.forked, err = in.a.duplicate(ctx, func(b *batch) {
		unshare(b)
		own(b)
		hide(b)
	})
	if err != nil {
		return false, err
	}
	var unread error
	if c.plan == nil {
		unread = c.read()
	}
	if err := c.forked.await(ctx); err != nil {
		return false, errors.Join(err, unread)
	}
	var missing, surplus []int
	if unread == nil {
		missing, surplus = differ(c.plan.virtual(), hidden)
		if len(missing)+len(surplus) == 0 {
			return true, nil
		}
	}
	if c.x, err = c.forked.anchor(ctx); err != nil {
		return false, errors.Join(err, unread)
	}
	if err = unread; err == nil {
		if slices.ContainsFunc(surplus, c.open) { // it is shared now, and lost in the child
			err := c.x.discard()
			c.x = nil
			return false, err
		}
		err = c.x.hide(ctx, missing, surplus)
	}
	if err != nil {
		return false, errors.Join(err, c.x.discard())
	}
	return true, nil
}

// differ returns what only now has, and what only before has. Both are sorted.
func differ(now, before []int) (added, gone []int) {
	for _, fd := range now {
		if _, ok := slices.BinarySearch(before, fd); !ok {
			added = append(added, fd)
		}
	}
	for _, fd := range before {
		if _, ok := slices.BinarySearch(now, fd); !ok {
			gone = append(gone, fd)
		}
	}
	return added, gone
}

// read reads what does not get into the image by itself.
func (c *checkpoint) read() error {
	in, begun := c.in, time.Now()
	r := capturer{
		pid: in.leader.PID, pidfd: in.leader.pidfd, listeners: in.listenerInodes(), conns: c.conns, shared: c.s.target.Shared,
		binder: c.s.target.Broker, binderPID: in.a.PID,
		files: &in.proc,
	}
	var err error
	if c.plan, c.use, err = r.runWith(c.s.files, in.a.PID); err != nil {
		return err
	}
	c.open = r.open
	if err := noTiles(in.leader.PID, in.tracee.threads); err != nil {
		return err
	}
	c.threads = in.threadStates()
	c.captured = slices.Clone(c.threads)
	if c.mapped, err = in.proc.mappedWhileForking(); err != nil {
		return err
	}
	if c.signals, err = in.readSignals(c.captured); err != nil {
		return err
	}
	in.tracee.whole = c.plan.ordersSignals() || c.signals.ordered()
	if c.limits, err = in.proc.limitsText(); err != nil {
		return err
	}
	c.timing.Capture = time.Since(begun)
	return in.intact()
}

// complete does the rest. The instance may run: nothing here touches its threads or descriptors.
func (c *checkpoint) complete(ctx context.Context) (err error) {
	in := c.in
	if c.x == nil {
		if c.x, err = c.forked.anchor(ctx); err != nil {
			return err
		}
	}
	if err := c.checkAdvice(c.mapped); err != nil {
		return errors.Join(err, c.x.discard())
	}
	if err := c.x.limit(ctx, c.limits); err != nil {
		return errors.Join(err, c.x.discard())
	}
	c.img = &image{
		s: c.s, a: c.x, plan: c.plan, threads: c.captured, shared: c.shared, files: c.files, filesInUse: c.use, signals: c.signals,
		advice: in.advice,
	}
	c.handle = in.handleWith(c.threads)
	if err := c.s.files.makeReady(); err != nil { // likewise
		c.s.target.Log.WithError(err).Warn("cannot prepare for the next checkpoint's private files")
	}
	if freely() {
		slots := make([]int, len(c.threads))
		for i, t := range c.threads {
			slots[i] = t.Slot
		}
		if err := in.a.prepare(ctx, slots...); err != nil { // this checkpoint is complete; it is the next one that will fail
			c.s.target.Log.WithError(err).Warn("cannot prepare for the next checkpoint")
		}
	}
	return nil
}
