package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

func TestInstanceBranchesOnceAndIsKept(t *testing.T) {
	m, e, _ := newTestMonitor(t, nil)
	first, err := m.Instance(t.Context(), "uid:1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Instance(t.Context(), "uid:1")
	if err != nil || again != first {
		t.Errorf("got another instance, %v", err)
	}
	if other, err := m.Instance(t.Context(), "uid:2"); err != nil || other == first || len(e.instances) != 2 {
		t.Errorf("two apps, %d instances, %v", len(e.instances), err)
	}
}

func TestCrashGoesBackToTheHead(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	ctx, app := t.Context(), instance.App("uid:1")
	enter(t, m, g, app)
	if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
		t.Fatal(err)
	}
	first := m.ledger.head(app)
	if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.restore(ctx, app, string(first)); err != nil {
		t.Fatal(err)
	}
	in := g.seat(app).inst.(*fakeInstance)
	in.die()
	rep, err := m.Crashed(ctx, app, in.Exit(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Not the newest in time, which was given up by the restore.
	if got := rep.Instance.(*fakeInstance).from; fmt.Sprint(got) != string(m.holding(app).images[first].Handle()) {
		t.Errorf("restored image %d", got)
	}
	if len(e.instances) != 1 || len(e.images) != 2 {
		t.Errorf("%d instances, %d images", len(e.instances), len(e.images))
	}
}

func TestLostCheckpointFallsBack(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	ctx, app := t.Context(), instance.App("uid:1")
	in := enter(t, m, g, app)
	for range 2 {
		if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
			t.Fatal(err)
		}
	}
	head := m.ledger.head(app)
	m.holding(app).images[head].Image.(*fakeImage).lost = true
	in.die()
	rep, err := m.Crashed(ctx, app, in.Exit(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if now := m.ledger.head(app); now == head || now == instance.Base {
		t.Errorf("head is %s, was %s", now, head)
	}
	if rep.Instance == nil || len(e.images) != 1 {
		t.Errorf("%d images", len(e.images))
	}
}

func TestCrashLoopAndStop(t *testing.T) {
	for _, v := range []struct {
		mode    spec.CrashMode
		crashes int
		want    error
	}{
		{spec.CrashRestore, instance.DefaultCrashLoop.Stalled, gate.ErrQuarantined},
		{spec.CrashStop, 1, gate.ErrStopped},
	} {
		t.Run(string(v.mode), func(t *testing.T) {
			m, e, g := newTestMonitor(t, func(s *spec.Service) { s.OnCrash.Mode = v.mode })
			ctx, app := t.Context(), instance.App("uid:1")
			in := enter(t, m, g, app)
			var err error
			for n := 1; n <= v.crashes; n++ {
				in.die()
				var rep gate.Replacement
				rep, err = m.Crashed(ctx, app, in.Exit(), nil)
				if n < v.crashes {
					if err != nil {
						t.Fatalf("crash %d: %v", n, err)
					}
					in = rep.Instance.(*fakeInstance)
				}
			}
			if !errors.Is(err, v.want) || len(e.instances) != 0 {
				t.Errorf("%d instances, %v", len(e.instances), err)
			}
			if _, err := m.Instance(ctx, app); !errors.Is(err, v.want) {
				t.Errorf("Instance: %v", err)
			}
			if _, err := m.Instance(ctx, "uid:2"); err != nil {
				t.Errorf("another app: %v", err)
			}
			g.seat(app).inst = nil
			if _, err := m.restore(ctx, app, "base"); err != nil {
				t.Fatal(err)
			}
			if got, err := m.Instance(ctx, app); err != nil || got != g.seat(app).inst {
				t.Errorf("after a restore: %v", err)
			}
		})
	}
}

func TestFailedRestoreLeavesTheInstance(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	app := instance.App("uid:1")
	in := enter(t, m, g, app)
	e.refuse = errors.New("no memory")
	if _, err := m.restore(t.Context(), app, "base"); err == nil {
		t.Fatal("no error")
	}
	if got, err := m.Instance(t.Context(), app); err != nil || got != in || len(e.instances) != 1 {
		t.Errorf("%d instances, %v", len(e.instances), err)
	}
	if _, err := m.restore(t.Context(), "uid:9", "base"); !errors.Is(err, ErrUnknownApp) {
		t.Errorf("unknown app: %v", err)
	}
	if _, err := m.restore(t.Context(), app, "nope"); !errors.Is(err, ErrUnknownCheckpoint) {
		t.Errorf("unknown checkpoint: %v", err)
	}
}

func TestJournalThatCannotBeWritten(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	app := instance.App("uid:1")
	enter(t, m, g, app)
	if err := m.ledger.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Checkpoint(t.Context(), app, "every", nil); err == nil {
		t.Fatal("a checkpoint was acknowledged that is not on disk")
	}
	if len(e.images) != 0 || m.ledger.head(app) != instance.Base {
		t.Errorf("%d images, head %s", len(e.images), m.ledger.head(app))
	}
	// The file is written anew, with all that went before.
	if err := m.Checkpoint(t.Context(), app, "every", nil); err != nil {
		t.Fatal(err)
	}
	sameAsReplayed(t, m)
}

// TestRandomOperations has many apps do everything at once and compares what the engine, the ledger and the journal say.
func TestRandomOperations(t *testing.T) {
	const apps, steps = 8, 150
	m, e, g := newTestMonitor(t, func(s *spec.Service) { s.History, s.HistoryBytes = 5, 450 })
	var wg sync.WaitGroup
	for n := range apps {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 7))
			app := instance.App(fmt.Sprint("uid:", n))
			var inner sync.WaitGroup
			for range steps {
				step(t, m, g, app, rnd.IntN(10), rnd.IntN(4))
				if rnd.IntN(8) == 0 { // commands come at any time
					to := rnd.IntN(3)
					inner.Go(func() { step(t, m, g, app, 8, to) })
				}
			}
			inner.Wait()
		})
	}
	wg.Wait()
	for _, h := range m.allHoldings() {
		h.mu.Lock()
		m.measure(h)
		surplus, err := m.ledger.trim(h.app)
		if err != nil {
			t.Error(err)
		}
		m.discard(h, surplus)
		h.mu.Unlock()
	}
	consistent(t, m, e)
	sameAsReplayed(t, m)
}

// step does one thing with app; op says what.
func step(t *testing.T, m *Monitor, g *fakeGate, app instance.App, op, to int) {
	ctx := context.Background()
	s := g.enter(app)
	var err error
	switch {
	case op < 5: // requests, and then a checkpoint by policy
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inst == nil {
			if s.inst, err = m.Instance(ctx, app); err != nil {
				break
			}
		}
		err = m.Checkpoint(ctx, app, "every", nil)
	case op == 5:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inst == nil {
			return
		}
		s.inst.(*fakeInstance).die()
		var rep gate.Replacement
		rep, err = m.Crashed(ctx, app, s.inst.Exit(), nil)
		s.inst = rep.Instance
	case op == 6 && to == 0:
		if err = m.evict(ctx, m.holding(app), "test"); errors.Is(err, ErrNoInstance) || errors.Is(err, engine.ErrBusy) {
			err = nil
		}
	case op == 6:
		_, err = m.checkpointNow(ctx, app, "tag")
	case op == 7:
		_, err = json.Marshal(m.viewApps())
		if err == nil {
			_, err = m.history(app)
		}
	default:
		_, err = m.restore(ctx, app, []string{"", "base", "latest", "HEAD~1"}[to])
	}
	allowed := []error{ErrUnknownApp, ErrUnknownCheckpoint, ErrNoInstance, gate.ErrQuarantined}
	for _, a := range allowed {
		if errors.Is(err, a) {
			return
		}
	}
	if err != nil {
		t.Errorf("app %s, operation %d: %v", app, op, err)
	}
}

// consistent compares the engine's view with the monitor's.
func consistent(t *testing.T, m *Monitor, e *fakeEngine) {
	t.Helper()
	instances, images := 0, 0
	for _, a := range m.ledger.apps() {
		h := m.holding(a.App)
		if a.State.Live() != (h.inst != nil) {
			t.Errorf("app %s: ledger says %s", a.App, a.State)
		}
		if h.inst != nil {
			instances++
			if string(a.Handle) != string(h.inst.Handle()) {
				t.Errorf("app %s: the ledger has another instance", a.App)
			}
		}
		images += len(h.images)
		if a.Kept != len(h.images) || a.Kept > 5 {
			t.Errorf("app %s: %d checkpoints on the ledger, %d images", a.App, a.Kept, len(h.images))
		}
	}
	if len(e.instances) != instances || len(e.images) != images {
		t.Errorf("the engine has %d instances and %d images, the monitor %d and %d", len(e.instances), len(e.images), instances, images)
	}
}

// sameAsReplayed compares the model with what its journal says, but for sizes, which are not journaled.
func sameAsReplayed(t *testing.T, m *Monitor) {
	t.Helper()
	again, err := openLedger(m.ref.layout().journal(), m.svc)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	for _, a := range m.ledger.apps() {
		b, err := again.app(a.App)
		if err != nil {
			t.Errorf("replayed: %v", err)
			continue
		}
		if a.State != b.State || a.Head != b.Head || a.Kept != b.Kept || a.Crashes != b.Crashes || string(a.Handle) != string(b.Handle) {
			t.Errorf("model %+v, replayed %+v", a, b)
		}
	}
}

func enter(t *testing.T, m *Monitor, g *fakeGate, app instance.App) *fakeInstance {
	t.Helper()
	in, err := m.Instance(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	g.enter(app).inst = in
	return in.(*fakeInstance)
}

func TestTakeOverFindsWhatIsLeft(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	ctx := t.Context()
	kept, died := enter(t, m, g, "uid:1"), enter(t, m, g, "uid:2")
	for _, app := range []instance.App{"uid:1", "uid:2"} {
		for range 3 {
			if err := m.Checkpoint(ctx, app, "every", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	head := m.ledger.head("uid:2")
	m.holding("uid:2").images[head].Image.(*fakeImage).lost = true
	died.die()
	torn(t, m.ref.layout().journal())

	next := &Monitor{ref: m.ref, log: m.log, svc: m.svc, eng: e, bus: newBus(), rec: m.rec, holdings: map[instance.App]*holding{}, recovered: true}
	next.metrics = newMetrics(next)
	next.gate = &fakeGate{m: next, at: map[instance.App]*fakeSeat{}}
	var err error
	if next.ledger, err = openLedger(m.ref.layout().journal(), m.svc); err != nil {
		t.Fatal(err)
	}
	defer next.ledger.close()
	for _, a := range next.ledger.apps() {
		if err := next.reopen(ctx, a.App); err != nil {
			t.Fatal(err)
		}
	}
	// Commands work although the gate has not heard of the app yet.
	if _, err := next.checkpointNow(ctx, "uid:1", "late"); err != nil {
		t.Errorf("checkpoint: %v", err)
	}
	if got, err := next.Instance(ctx, "uid:1"); err != nil || got != engine.Instance(kept) {
		t.Errorf("the living instance was not taken over: %v", err)
	}
	got, err := next.Instance(ctx, "uid:2")
	if err != nil || got == engine.Instance(died) {
		t.Fatalf("instance of the dead one's app: %v", err)
	}
	if now := next.ledger.head("uid:2"); now == head || now == instance.Base {
		t.Errorf("it began from %s; the newest that is left is another", now)
	}
	for id, img := range next.holding("uid:1").images {
		if late, err := next.ledger.lookup("uid:1", "late"); err != nil || img.foreign != (id != late) {
			t.Errorf("checkpoint %s: foreign is %t, and only the last one was taken under this gate", id, img.foreign)
		}
	}
	if len(next.holding("uid:1").images) != 4 || len(next.holding("uid:2").images) != 2 {
		t.Error("checkpoints are missing")
	}
}

// torn appends half a line to the journal, as a monitor does that is killed while it writes.
func torn(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"v":1,"crc32c":"0`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
