package kmod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// Behind a Binder gate the module activates instances by itself, so that what is active is known by asking only. To have
// nothing in the way of a change, the engine has the process hold still as one record; the gate lets nobody in meanwhile.

var (
	_ engine.BinderEngine  = kmodEngine{}
	_ engine.BinderService = (*service)(nil)
)

var binderKeys = map[engine.BinderKey]client.BinderKey{
	engine.BinderUID: client.KeyEUID, engine.BinderPID: client.KeyPID, engine.BinderCgroup: client.KeyCgroup,
}

// BinderAvailable implements engine.BinderEngine.
func (e kmodEngine) BinderAvailable() error {
	if s := binderfs.Probe(); s.Offer == binderfs.OfferNone || s.Offer == binderfs.OfferNodes {
		return fmt.Errorf("engine kmod: %w: %s; way out: %s", binderfs.ErrUnsupported, s.Detail, s.WayOut)
	}
	d, err := e.open()
	if err != nil {
		return fmt.Errorf("engine kmod: %w", err)
	}
	features := d.Version().Features
	err = d.Close()
	if features&client.FeatureBinder == 0 {
		err = errors.Join(err, errors.New("engine kmod: the module was built without the Binder gate; way out: build corsa.ko with CORSA_BINDER_HEADERS"))
	}
	return err
}

// enableBinder puts the gate before the process, which runs still.
func (s *service) enableBinder() error {
	b := s.target.Binder
	key, ok := binderKeys[b.Key]
	if !ok {
		return fmt.Errorf("there is no Binder key %q", b.Key)
	}
	devices, hook, err := s.session.EnableBinder(client.BinderGate{Key: key, Wait: b.Wait})
	if err != nil {
		return err
	}
	s.target.Log.WithField("devices", devices).WithField("hook", hook.String()).Info("Binder gate enabled")
	return nil
}

func (s *service) gated() bool { return s.target.Binder != nil }

var errGateActivates = errors.New("the Binder gate activates instances as transactions arrive")

// hold makes the process stand still as record id, at a moment at which it has no transaction. It returns which record was
// active before. s.stage is held.
func (s *service) hold(id uint32) (before uint32, err error) {
	l, err := s.session.List()
	if err != nil {
		return client.None, err
	}
	return l.Active, s.session.Activate(id, client.Hold, 0)
}

// unhold ends hold. The record that was active before goes on if it can; none needs to be, as a transaction activates its own.
func (s *service) unhold(before uint32) error {
	err := s.session.Activate(before, client.Lazy, 0)
	if errors.Is(err, client.ErrState) || errors.Is(err, client.ErrNoRecord) || errors.Is(err, client.ErrRefused) {
		err = s.session.Activate(client.None, 0, 0)
	}
	return err
}

// aside calls f while the process stands still as record 0, which is no app's.
func (s *service) aside(f func() error) error {
	s.stage.Lock()
	defer s.stage.Unlock()
	before, err := s.hold(original)
	if err != nil {
		return err
	}
	err = f()
	return errors.Join(err, s.unhold(before))
}

// captureGated reads the descriptors of an instance and copies it, at the same moment.
func (s *service) captureGated(in *instance, conns engine.Conns) (p *fdplan.Plan, c client.Copied, capture time.Duration, err error) {
	s.stage.Lock()
	defer s.stage.Unlock()
	if in.gone.Load() {
		return nil, c, 0, in.isGone()
	}
	start := time.Now()
	before, err := s.hold(in.id)
	if err != nil {
		return nil, c, time.Since(start), in.explain("capture", err)
	}
	p, err = s.readTable(in.inodes(), conns)
	capture = time.Since(start)
	if err == nil {
		c, err = s.session.Checkpoint(in.id, 0, s.nonce)
		err = translate(s.process.PID, err)
	}
	if e := s.unhold(before); e != nil {
		err = errors.Join(err, in.explain("after the capture of", e))
	}
	return p, c, capture, err
}

// Rewind implements engine.BinderService.
func (s *service) Rewind(ctx context.Context, inst engine.Instance, img engine.Image) error {
	in, ok := inst.(*instance)
	m, ok2 := img.(*image)
	if !ok || !ok2 || in.s != s || m.s != s {
		return fmt.Errorf("instance %T or image %T belongs to another service", inst, img)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	maker := &fdplan.Maker{
		Plan: m.plan, Dir: s.target.Dir, Name: fmt.Sprintf("%d-%d", s.process.PID, in.id), Net: &s.net, Keep: map[engine.ConnID]bool{},
	}
	defer maker.Close()
	changed := false
	err := s.aside(func() error {
		if _, err := s.session.Restore(m.id, in.id, 0); err != nil {
			return err
		}
		changed = true
		return s.furnish(in, maker)
	})
	if err == nil {
		return s.revive(in)
	}
	if changed { // it has not all of its descriptors, and must not run
		s.mu.Lock()
		in.die(engine.Exit{Code: -1})
		s.mu.Unlock()
	}
	return in.explain("rewind", err)
}

// revive makes an instance that may have crashed a living one.
func (s *service) revive(in *instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !in.dead {
		return nil
	}
	var b [8]byte
	if _, err := unix.Read(in.died, b[:]); err != nil {
		return fmt.Errorf("instance %d of process %d: %w", in.id, in.PID(), err)
	}
	in.dead = false
	in.gone.Store(false)
	if s.over != nil {
		in.die(*s.over)
	}
	return nil
}

// Route implements engine.BinderService.
func (s *service) Route(key uint64, inst engine.Instance, every int) error {
	id, flags := client.None, client.RouteFlags(0)
	if inst != nil {
		in, ok := inst.(*instance)
		if !ok || in.s != s {
			return fmt.Errorf("instance %T belongs to another service", inst)
		}
		id = in.id
	}
	if every > 0 {
		flags = client.RoutePause
	}
	return translate(s.process.PID, s.session.Route(key, id, flags, every))
}

// Routes implements engine.BinderService.
func (s *service) Routes() ([]engine.BinderRoute, error) {
	if !s.gated() {
		return nil, engine.ErrNotGated
	}
	list, err := s.session.Routes()
	if err != nil {
		return nil, translate(s.process.PID, err)
	}
	routes := make([]engine.BinderRoute, len(list))
	for i, r := range list {
		routes[i] = engine.BinderRoute{
			Key: r.Key, Routed: r.ID != client.None, Wanted: r.Flags&client.RouteWanted != 0, Due: r.Flags&client.RouteDue != 0,
			Transactions: r.Transactions, Oneway: r.Oneway,
		}
	}
	return routes, nil
}

// BinderStats implements engine.BinderService.
func (s *service) BinderStats() (engine.BinderStats, error) {
	if !s.gated() {
		return engine.BinderStats{}, engine.ErrNotGated
	}
	b, err := s.session.BinderStats()
	if err != nil {
		return engine.BinderStats{}, translate(s.process.PID, err)
	}
	return engine.BinderStats{
		InProgress: b.InProgress, Waiting: b.Waiting, Transactions: b.Transactions, Oneway: b.Oneway, Nested: b.Nested,
		Outgoing: b.Outgoing, Waits: b.Waits, Switches: b.Switches, Timeouts: b.Timeouts, Interrupted: b.Interrupted,
		Aborted: b.Aborted, Waited: b.Waited, LongestWait: b.LongestWait,
	}, nil
}
