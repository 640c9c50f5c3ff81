package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// newSparingMonitor is newTestMonitor with spares of the base, and of apps.
func newSparingMonitor(t *testing.T, base int) (*Monitor, *fakeEngine, *fakeGate) {
	t.Helper()
	return newSparingMonitorOf(t, base, spec.AppKeyUID)
}

func newSparingMonitorOf(t *testing.T, base int, key spec.AppKey) (*Monitor, *fakeEngine, *fakeGate) {
	t.Helper()
	m, e, g := newTestMonitor(t, func(s *spec.Service) { s.Spares, s.AppKey = base, key })
	m.ledger.inMemory = key != spec.AppKeyConnection // whatever the test's directory is on
	m.startSpares(func() bool { return true })
	t.Cleanup(func() {
		if err := m.spares.close(); err != nil {
			t.Error(err)
		}
	})
	return m, e, g
}

// eventually waits until something holds that another goroutine brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func (e *fakeEngine) living() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.instances)
}

func spareOf(h *holding) *spare {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spare
}

func TestNewAppTakesASpareOfTheBase(t *testing.T) {
	m, e, _ := newSparingMonitor(t, 2)
	eventually(t, "no spares are made", func() bool { return m.spares.count().Base == 2 })
	if len(m.ledger.apps()) != 0 {
		t.Error("spares count as apps")
	}
	m.spares.mu.Lock()
	first := m.spares.pool[0].inst
	m.spares.mu.Unlock()
	in, ok := m.PromptInstance("uid:1")
	if !ok || in != first {
		t.Fatalf("got %v, %v", in, ok)
	}
	m.Prompted()
	if again, err := m.Instance(t.Context(), "uid:1"); err != nil || again != in {
		t.Errorf("asked again: %v, %v", again, err)
	}
	eventually(t, "the spare is not replaced", func() bool { return m.spares.count().Base == 2 })
	if n := e.living(); n != 3 {
		t.Errorf("%d instances", n)
	}
	sameAsReplayed(t, m)
}

func TestDeadSparesAreNotGiven(t *testing.T) {
	m, e, g := newSparingMonitor(t, 1)
	eventually(t, "no spare is made", func() bool { return m.spares.count().Base == 1 })
	m.spares.mu.Lock()
	x := m.spares.pool[0].inst.(*fakeInstance)
	m.spares.mu.Unlock()
	x.die()
	if _, ok := m.PromptInstance("uid:1"); ok {
		t.Error("a dead spare is given")
	}
	if in := enter(t, m, g, "uid:1"); in == x || in.gone {
		t.Errorf("got dead instance %d", in.n)
	}
	eventually(t, "the dead one is not cleared away", func() bool { return e.living() == 2 && m.spares.count().Base == 1 })
}

func TestCrashAndRestoreTakeTheSpare(t *testing.T) {
	m, e, g := newSparingMonitor(t, 1)
	ctx, app := t.Context(), instance.App("uid:1")
	enter(t, m, g, app)
	h := m.holding(app)
	if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no spare of the checkpoint is made", func() bool { return spareOf(h) != nil })
	x := spareOf(h)
	if x.from != m.ledger.head(app) {
		t.Errorf("spare of %s", x.from)
	}
	if _, err := m.restore(ctx, app, ""); err != nil {
		t.Fatal(err)
	}
	if g.seat(app).inst != x.inst {
		t.Error("the restore did not take the spare")
	}
	eventually(t, "no other spare is made", func() bool { return spareOf(h) != nil })
	x = spareOf(h)
	in := g.seat(app).inst.(*fakeInstance)
	in.die()
	rep, ok, err := m.PromptCrashed(app, in.Exit(), nil)
	if err != nil || !ok || rep.Instance != x.inst {
		t.Fatalf("%v, %v, %v", rep.Instance, ok, err)
	}
	m.Prompted()
	if a, err := m.ledger.app(app); err != nil || a.Crashes != 1 {
		t.Errorf("%d crashes, %v", a.Crashes, err)
	}
	// The app's, its spare and that of the base.
	eventually(t, "former instances are left", func() bool { return e.living() == 3 && spareOf(h) != nil })
	sameAsReplayed(t, m)
}

func TestNewerCheckpointEndsTheSpare(t *testing.T) {
	m, e, g := newSparingMonitor(t, 1)
	ctx, app := t.Context(), instance.App("uid:1")
	enter(t, m, g, app)
	h := m.holding(app)
	for range 3 {
		if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
			t.Fatal(err)
		}
		head := m.ledger.head(app)
		eventually(t, "no spare is made", func() bool { x := spareOf(h); return x != nil && x.from == head })
	}
	eventually(t, "a stale spare is left", func() bool { return e.living() == 3 })
	if err := m.Left(ctx, app); err != nil {
		t.Fatal(err)
	}
	eventually(t, "something of the app is left", func() bool { return e.living() == 1 })
}

// An app that is captured all the time has no spare made.
func TestBusyCheckpointsMakeNoSpares(t *testing.T) {
	m, _, g := newSparingMonitor(t, 1)
	app := instance.App("uid:1")
	enter(t, m, g, app)
	eventually(t, "no spare of the base", func() bool { return m.spares.count().Base == 1 })
	m.spares.mu.Lock()
	m.spares.cost = time.Hour // nothing is quiet for ten times that
	m.spares.mu.Unlock()
	for range 10 {
		if err := m.Checkpoint(t.Context(), app, "every", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(spareAfter / 10)
	}
	time.Sleep(2 * spareAfter)
	if spareOf(m.holding(app)) != nil {
		t.Error("a spare was made")
	}
}

func TestSparesYield(t *testing.T) {
	m, e, g := newSparingMonitor(t, 2)
	app := instance.App("uid:1")
	enter(t, m, g, app)
	if err := m.Checkpoint(t.Context(), app, "every", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no spares", func() bool { return m.spares.count().Base == 2 && spareOf(m.holding(app)) != nil })
	// A state of which there is no spare.
	h := m.holding("uid:2")
	h.mu.Lock()
	h.images["elsewhere"] = &heldImage{Image: m.holding(app).images[m.ledger.head(app)].Image}
	e.mu.Lock()
	e.refuse = errors.New("no more processes")
	e.mu.Unlock()
	rep, err := m.branch(t.Context(), h, "elsewhere", nil, "test")
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if n := e.living(); n != 2 || m.spares.count() != (SparesView{Taken: m.spares.taken.Load()}) {
		t.Errorf("%d instances, %+v", n, m.spares.count())
	}
	if err := rep.Instance.Kill(); err != nil {
		t.Error(err)
	}
}

func TestNoSparesWithoutRoomOrPolicy(t *testing.T) {
	m, e, _ := newTestMonitor(t, func(s *spec.Service) { s.Spares = 0 })
	none := func() bool { return false }
	if m.startSpares(none); m.spares != nil {
		t.Error("spares although there are to be none")
	}
	m.svc.Spares = 1
	m.startSpares(none)
	time.Sleep(3 * spareAfter)
	if n := e.living(); n != 0 {
		t.Errorf("%d instances", n)
	}
	if err := m.spares.close(); err != nil {
		t.Error(err)
	}
}

// Apps come, are captured, crash, are restored and leave while spares of them are made; in the end every instance and image
// belongs to somebody.
func TestSparesUnderChange(t *testing.T) {
	for key, prefix := range map[spec.AppKey]string{spec.AppKeyUID: "uid:", spec.AppKeyConnection: "conn:"} {
		t.Run(string(key), func(t *testing.T) { t.Parallel(); sparesUnderChange(t, key, prefix) })
	}
}

func sparesUnderChange(t *testing.T, key spec.AppKey, prefix string) {
	m, e, g := newSparingMonitorOf(t, 3, key)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	done := make(chan struct{})
	const apps = 4
	for n := range apps {
		go func() {
			defer func() { done <- struct{}{} }()
			r := rand.New(rand.NewPCG(uint64(n), 1))
			for ctx.Err() == nil {
				if err := live(m, g, instance.App(fmt.Sprint(prefix, n)), r); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range apps {
		<-done
	}
	if err := m.spares.close(); err != nil {
		t.Error(err)
	}
	held, images := 0, 0
	for _, h := range m.allHoldings() {
		h.mu.Lock()
		if h.inst != nil {
			held++
		}
		if h.spare != nil {
			held++
		}
		images += len(h.images)
		h.mu.Unlock()
	}
	if e.living() != held || len(e.images) != images {
		t.Errorf("%d instances, %d of them held; %d images, %d of them held", e.living(), held, len(e.images), images)
	}
	if m.spares.taken.Load() == 0 {
		t.Error("no spare was ever taken")
	}
	if err := m.ledger.settle(); err != nil {
		t.Error(err)
	}
	sameAsReplayed(t, m)
}

// Apps that end with the monitor get their instances before that is in the journal, wherever that is; what is written is in
// order.
func TestFleetingAppsAreRecordedLate(t *testing.T) {
	m, _, g := newSparingMonitorOf(t, 2, spec.AppKeyConnection)
	full := func() bool { return m.spares.count().Base == 2 }
	eventually(t, "no spares are made", full)
	replayed := func() *ledger {
		again, err := openLedger(m.ref.layout().journal(), m.svc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = again.close() }) // only read
		return again
	}
	in, ok := m.PromptInstance("conn:1")
	if !ok {
		t.Fatal("no spare was given")
	}
	g.enter("conn:1").inst = in
	if n := len(replayed().apps()); n != 0 {
		t.Errorf("%d apps are in the journal already", n)
	}
	m.Prompted()
	eventually(t, "the journal knows the app", func() bool { return len(replayed().apps()) == 1 })
	sameAsReplayed(t, m)

	eventually(t, "the spare is replaced", full)
	other, ok := m.PromptInstance("conn:2")
	if !ok {
		t.Fatal("no spare was given")
	}
	g.enter("conn:2").inst = other
	if err := m.Checkpoint(t.Context(), "conn:2", "every", nil); err != nil {
		t.Fatal(err)
	}
	sameAsReplayed(t, m) // the line that was late is before the checkpoint's
	if _, ok := m.PromptInstance("conn:2"); ok {
		t.Error("an app got a second instance")
	}
}

// live is a stretch of an app's life.
func live(m *Monitor, g *fakeGate, app instance.App, r *rand.Rand) error {
	ctx := context.Background()
	s := g.enter(app)
	s.mu.Lock()
	in, ok := m.PromptInstance(app)
	var err error
	if !ok {
		in, err = m.Instance(ctx, app)
	}
	s.inst = in
	s.mu.Unlock()
	if errors.Is(err, gate.ErrQuarantined) {
		g.leave(app)
		return m.Left(ctx, app)
	}
	for n := r.IntN(4); err == nil && n > 0; n-- {
		err = m.Checkpoint(ctx, app, "every", nil)
		time.Sleep(time.Duration(r.Int64N(int64(2 * spareAfter))))
	}
	if err != nil {
		return err
	}
	switch r.IntN(3) {
	case 0:
		s.mu.Lock()
		defer s.mu.Unlock()
		x := s.inst.(*fakeInstance)
		x.die()
		rep, ok, err := m.PromptCrashed(app, engine.Exit{Signal: 9}, nil)
		if !ok {
			rep, err = m.Crashed(ctx, app, engine.Exit{Signal: 9}, nil)
		}
		s.inst = rep.Instance
		if errors.Is(err, gate.ErrQuarantined) {
			err = nil
		}
		return err
	case 1:
		_, err := m.restore(ctx, app, "")
		if errors.Is(err, instance.ErrUnknownRevision) {
			err = nil // nothing but the base
		}
		return err
	}
	g.leave(app)
	return m.Left(ctx, app)
}
