package service

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// fakeEngine is an engine whose instances are numbers. It knows what it has handed out, so a test can tell what was
// leaked, used after its end, or used by two at once.
type fakeEngine struct {
	t *testing.T

	mu        sync.Mutex
	next      int
	instances map[int]*fakeInstance
	images    map[int]*fakeImage
	base      *fakeImage
	refuse    error // of the next Branch
}

func newFakeEngine(t *testing.T) *fakeEngine {
	e := &fakeEngine{t: t, instances: map[int]*fakeInstance{}, images: map[int]*fakeImage{}}
	e.base = &fakeImage{e: e, n: 0}
	return e
}

type fakeInstance struct {
	e       *fakeEngine
	n       int
	from    int // the image
	deathFD int // an eventfd; readable once it is dead
	busy    sync.Mutex
	active  bool
	gone    bool
}

type fakeImage struct {
	e    *fakeEngine
	n    int
	lost bool
}

func handleOf(n int) json.RawMessage { return json.RawMessage(fmt.Sprint(n)) }

func (e *fakeEngine) Base() engine.Image { return e.base }

func (e *fakeEngine) Branch(_ context.Context, img engine.Image, keep []engine.ConnID) (engine.Instance, []engine.Plumbed, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuse; err != nil {
		e.refuse = nil
		return nil, nil, err
	}
	m := img.(*fakeImage)
	if m.lost || m != e.base && e.images[m.n] != m {
		return nil, nil, fmt.Errorf("image %d: %w", m.n, engine.ErrGone)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	e.next++
	in := &fakeInstance{e: e, n: e.next, from: m.n, deathFD: fd}
	e.instances[in.n] = in
	return in, nil, nil
}

func (e *fakeEngine) Checkpoint(_ context.Context, in engine.Instance, _ engine.Conns) (engine.Image, engine.Timing, error) {
	i := in.(*fakeInstance)
	if !i.busy.TryLock() {
		e.t.Error("two calls concern the same instance")
	}
	defer i.busy.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if i.gone {
		return nil, engine.Timing{}, engine.ErrGone
	}
	e.next++
	img := &fakeImage{e: e, n: e.next}
	e.images[img.n] = img
	return img, engine.Timing{Total: time.Microsecond}, nil
}

func (e *fakeEngine) Handle() json.RawMessage { return handleOf(-1) }
func (e *fakeEngine) Close() error            { return nil }
func (e *fakeEngine) Destroy() error          { return nil }

func (e *fakeEngine) OpenInstance(_ context.Context, h json.RawMessage) (engine.Instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, in := range e.instances {
		if string(handleOf(in.n)) == string(h) && !in.gone {
			return in, nil
		}
	}
	return nil, engine.ErrGone
}

func (e *fakeEngine) OpenImage(_ context.Context, h json.RawMessage) (engine.Image, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, img := range e.images {
		if string(handleOf(img.n)) == string(h) && !img.lost {
			return img, nil
		}
	}
	return nil, engine.ErrGone
}

func (i *fakeInstance) PID() int                 { return i.n }
func (i *fakeInstance) PIDFD() int               { return i.deathFD }
func (i *fakeInstance) Activate() error          { i.active = true; return nil }
func (i *fakeInstance) Park(time.Duration) error { i.active = false; return nil }
func (i *fakeInstance) Dormant() bool            { return !i.active }
func (i *fakeInstance) Dial(int) (int, error)    { return -1, engine.ErrGone }
func (i *fakeInstance) Exit() engine.Exit        { return engine.Exit{Code: -1, Signal: 11} }
func (i *fakeInstance) Memory() (engine.Memory, error) {
	return engine.Memory{Resident: 2, Unique: 1}, nil
}
func (i *fakeInstance) Handle() json.RawMessage { return handleOf(i.n) }

// die is what a crash does.
func (i *fakeInstance) die() {
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	i.gone = true
	if _, err := unix.Write(i.deathFD, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		i.e.t.Error(err)
	}
}

func (i *fakeInstance) Kill() error {
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	if i.e.instances[i.n] != i {
		i.e.t.Errorf("instance %d is killed twice", i.n)
		return nil
	}
	delete(i.e.instances, i.n)
	i.gone = true
	return unix.Close(i.deathFD)
}

func (m *fakeImage) Memory() (engine.Memory, error) {
	return engine.Memory{Resident: 200, Unique: 100}, nil
}
func (m *fakeImage) Handle() json.RawMessage { return handleOf(m.n) }

// Dirty names both images: a test can tell which were compared.
func (m *fakeImage) Dirty(parent engine.Image) (int64, error) {
	return pages(m, parent.(*fakeImage)), nil
}

func pages(img, parent *fakeImage) int64 { return int64(1000*img.n + parent.n) }

func (m *fakeImage) Discard() error {
	m.e.mu.Lock()
	defer m.e.mu.Unlock()
	if m == m.e.base || m.e.images[m.n] != m {
		m.e.t.Errorf("image %d is discarded twice, or is the base", m.n)
	}
	delete(m.e.images, m.n)
	return nil
}

// fakeGate has one lock for each app, as a gate has one boundary.
type fakeGate struct {
	m  *Monitor
	mu sync.Mutex
	// at holds what the gate believes to be each app's instance.
	at map[instance.App]*fakeSeat
}

type fakeSeat struct {
	mu   sync.Mutex
	inst engine.Instance
}

func (g *fakeGate) seat(app instance.App) *fakeSeat {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at[app]
}

// enter is the first connection of an app.
func (g *fakeGate) enter(app instance.App) *fakeSeat {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.at[app] == nil {
		g.at[app] = &fakeSeat{}
	}
	return g.at[app]
}

// leave is the end of an app.
func (g *fakeGate) leave(app instance.App) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.at, app)
}

func (g *fakeGate) Serve(ctx context.Context) error { <-ctx.Done(); return nil }

func (g *fakeGate) Hold(ctx context.Context, app instance.App, fn func(context.Context, gate.Held) (gate.Replacement, error)) error {
	s := g.seat(app)
	if s == nil {
		return gate.ErrUnknownApp
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rep, err := fn(ctx, gate.Held{Instance: s.inst})
	if rep.Instance != nil {
		s.inst = rep.Instance
	}
	return err
}

func (g *fakeGate) Evict(ctx context.Context, app instance.App, fn func(context.Context, gate.Held) error) error {
	s := g.seat(app)
	if s == nil {
		return gate.ErrUnknownApp
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inst == nil {
		return engine.ErrBusy
	}
	err := fn(ctx, gate.Held{Instance: s.inst})
	if err == nil {
		s.inst = nil
	}
	return err
}

func (g *fakeGate) Stats() []gate.AppStats { return nil }

// newTestMonitor is a monitor of a fake engine and gate, with its journal in a directory of the test.
func newTestMonitor(t *testing.T, change func(*spec.Service)) (*Monitor, *fakeEngine, *fakeGate) {
	t.Helper()
	svc := spec.Default()
	svc.Endpoints = []spec.Endpoint{{Network: "unix", Address: "/run/fake.sock"}}
	if change != nil {
		change(svc)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	dir := t.TempDir()
	e := newFakeEngine(t)
	m := &Monitor{
		ref: Ref{Root: filepath.Dir(dir), ID: filepath.Base(dir)}, log: logrus.NewEntry(log), svc: svc, eng: e, bus: newBus(),
		rec: &record{Engine: "fake"}, holdings: map[instance.App]*holding{}, stopping: make(chan struct{}),
	}
	m.metrics = newMetrics(m)
	g := &fakeGate{m: m, at: map[instance.App]*fakeSeat{}}
	m.gate = g
	var err error
	if m.ledger, err = createLedger(m.ref.layout().journal(), svc, "test", e.base.Handle()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.ledger.close(); err != nil {
			t.Error(err)
		}
	})
	return m, e, g
}
