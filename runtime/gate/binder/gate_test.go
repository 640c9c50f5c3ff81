package binder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// copyOf is an instance that has nothing but a name.
type copyOf struct {
	engine.Instance
	name string
}

func (*copyOf) Exit() engine.Exit { return engine.Exit{Signal: 11, Code: -1} }

// world is an engine and a monitor without a kernel.
type world struct {
	t      *testing.T
	events chan []engine.BinderEvent

	mu       sync.Mutex
	routes   map[uint64]engine.Instance
	known    []engine.BinderRoute // before the gate
	made     int
	said     []string
	inside   map[instance.App]bool
	refuse   error // of Instance and Crashed
	captures error
	resume   bool // a capture lets the app go on before it returns
}

func newWorld(t *testing.T) *world {
	return &world{t: t, events: make(chan []engine.BinderEvent, 64), routes: map[uint64]engine.Instance{}, inside: map[instance.App]bool{}}
}

// driver is the world's engine.
type driver struct {
	engine.BinderService
	*world
}

func (w driver) Checkpoint(context.Context, engine.Instance, engine.Conns) (engine.Image, engine.Timing, error) {
	return nil, engine.Timing{}, errors.New("the gate captures nothing by itself")
}

func (w driver) BinderEvents(ctx context.Context) ([]engine.BinderEvent, error) {
	select {
	case e := <-w.events:
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w driver) Route(key uint64, in engine.Instance, every int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.routes[key] = in
	name := "nowhere"
	if in != nil {
		name = in.(*copyOf).name
	}
	w.said = append(w.said, fmt.Sprintf("route %d to %s every %d", key, name, every))
	return nil
}

func (w driver) Routes() ([]engine.BinderRoute, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.known), nil
}

// enter sees that nothing else is done for the app meanwhile.
func (w *world) enter(app instance.App, what string) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inside[app] {
		w.t.Errorf("two calls at once for %s: %s", app, what)
	}
	w.inside[app] = true
	w.said = append(w.said, fmt.Sprintf("%s %s", what, app))
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.inside[app] = false
	}
}

func (w *world) make() (engine.Instance, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return nil, w.refuse
	}
	w.made++
	return &copyOf{name: fmt.Sprint("copy ", w.made)}, nil
}

func (w *world) Instance(_ context.Context, app instance.App) (engine.Instance, error) {
	defer w.enter(app, "instance")()
	return w.make()
}

func (w *world) Crashed(_ context.Context, app instance.App, _ engine.Exit, _ []engine.ConnID) (gate.Replacement, error) {
	defer w.enter(app, "crashed")()
	in, err := w.make()
	return gate.Replacement{Instance: in}, err
}

func (w *world) Checkpoint(ctx context.Context, app instance.App, trigger string, conns engine.Conns) error {
	return w.CheckpointEarly(ctx, app, trigger, conns, nil)
}

func (w *world) CheckpointEarly(_ context.Context, app instance.App, trigger string, _ engine.Conns, resume func()) error {
	defer w.enter(app, "checkpoint "+trigger)()
	if w.resume {
		resume()
	}
	return w.captures
}

func (w *world) Left(_ context.Context, app instance.App) error {
	defer w.enter(app, "left")()
	return nil
}

// begin serves until the test ends.
func (w *world) begin(svc *spec.Service) *Gate {
	w.t.Helper()
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	bound := make(chan struct{})
	g, err := New(Config{Service: svc, Engine: driver{world: w}, Monitor: w, Log: logrus.NewEntry(log), Bound: func() { close(bound) }})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx) }()
	<-bound
	w.t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return g
}

func (w *world) tell(events ...engine.BinderEvent) { w.events <- events }

// hears waits until the last things that were said are these.
func (w *world) hears(want ...string) {
	w.t.Helper()
	var said []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		said = slices.Clone(w.said)
		w.mu.Unlock()
		if len(said) >= len(want) && slices.Equal(said[len(said)-len(want):], want) {
			return
		}
	}
	w.t.Fatalf("heard %q, want %q at the end", said, want)
}

func (w *world) instanceOf(key uint64) engine.Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.routes[key]
}

func service(edit func(*spec.Service)) *spec.Service {
	s := spec.Default()
	s.Gate = spec.GateBinder
	if edit != nil {
		edit(s)
	}
	return s
}

func wanted(key uint64) engine.BinderEvent {
	return engine.BinderEvent{Type: engine.BinderWanted, Key: key}
}

func TestWanted(t *testing.T) {
	w := newWorld(t)
	w.begin(service(nil))
	w.tell(wanted(2001))
	w.hears("instance uid:2001", "route 2001 to copy 1 every 0")
	w.tell(wanted(2002))
	w.hears("instance uid:2002", "route 2002 to copy 2 every 0")
}

func TestTurnedAway(t *testing.T) {
	for _, refusal := range []error{gate.ErrQuarantined, gate.ErrStopped, errors.New("no memory")} {
		w := newWorld(t)
		w.begin(service(nil))
		w.refuse = refusal
		w.tell(wanted(2001))
		w.hears("instance uid:2001", "route 2001 to nowhere every 0")
	}
}

func TestCrash(t *testing.T) {
	w := newWorld(t)
	w.begin(service(nil))
	w.tell(wanted(2001))
	w.hears("route 2001 to copy 1 every 0")
	w.tell(wanted(2002))
	w.hears("route 2002 to copy 2 every 0")
	first := w.instanceOf(2001)
	w.tell(engine.BinderEvent{Type: engine.BinderCrash, Instance: first}, wanted(2001))
	w.hears("crashed uid:2001", "route 2001 to copy 3 every 0", "instance uid:2001", "route 2001 to copy 4 every 0")
	// It has been replaced already.
	w.tell(engine.BinderEvent{Type: engine.BinderCrash, Instance: first}, wanted(2002))
	w.hears("instance uid:2002", "route 2002 to copy 5 every 0")
	w.mu.Lock()
	w.refuse = gate.ErrQuarantined
	w.mu.Unlock()
	w.tell(engine.BinderEvent{Type: engine.BinderCrash, Instance: w.instanceOf(2001)})
	w.hears("crashed uid:2001", "route 2001 to nowhere every 0")
}

func TestDue(t *testing.T) {
	for _, early := range []bool{false, true} {
		for _, failure := range []error{nil, engine.ErrBusy} {
			w := newWorld(t)
			w.resume, w.captures = early, failure
			w.begin(service(func(s *spec.Service) { s.Checkpoint = spec.CheckpointPolicy{Mode: spec.CheckpointEvery, N: 7} }))
			w.tell(wanted(2001))
			w.hears("route 2001 to copy 1 every 7")
			w.tell(engine.BinderEvent{Type: engine.BinderDue, Key: 2001})
			// Those that wait go on, whatever became of it, and once.
			w.hears("route 2001 to copy 1 every 7", "checkpoint every uid:2001", "route 2001 to copy 1 every 7")
		}
	}
}

func TestIntervals(t *testing.T) {
	w := newWorld(t)
	w.known = []engine.BinderRoute{{Key: 2001, Routed: true, Transactions: 3}, {Key: 2002, Routed: true}}
	w.begin(service(func(s *spec.Service) {
		s.Checkpoint = spec.CheckpointPolicy{Mode: spec.CheckpointInterval, Interval: 5 * time.Millisecond}
	}))
	w.hears("checkpoint interval uid:2001")
	time.Sleep(50 * time.Millisecond)
	w.hears("checkpoint interval uid:2001") // nothing new
	w.mu.Lock()
	w.known[1].Transactions = 1
	w.mu.Unlock()
	w.hears("checkpoint interval uid:2002")
}

// A gate begins with what an earlier one has left.
func TestTakeUp(t *testing.T) {
	w := newWorld(t)
	w.known = []engine.BinderRoute{
		{Key: 2001, Routed: true, Transactions: 9}, {Key: 2002, Wanted: true}, {Key: 2003}, {Key: 2004, Routed: true, Due: true},
	}
	g := w.begin(service(nil))
	deadline := time.Now().Add(30 * time.Second)
	for w.instanceOf(2001) == nil || w.instanceOf(2002) == nil || w.instanceOf(2004) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("%q", w.said)
		}
		time.Sleep(time.Millisecond)
	}
	if w.instanceOf(2003) != nil {
		t.Error("an app that nobody serves was given an instance")
	}
	if s := g.Stats(); len(s) != 3 || s[0].App != "uid:2001" || s[0].Transactions != 9 {
		t.Errorf("%+v", s)
	}
}

func TestHold(t *testing.T) {
	w := newWorld(t)
	g := w.begin(service(nil))
	never := func(context.Context, gate.Held) (gate.Replacement, error) {
		t.Error("it was called")
		return gate.Replacement{}, nil
	}
	if err := g.Hold(context.Background(), "uid:2001", never); !errors.Is(err, gate.ErrUnknownApp) {
		t.Errorf("an app that was never heard of: %v", err)
	}
	w.tell(wanted(2001))
	w.hears("route 2001 to copy 1 every 0")
	err := g.Hold(context.Background(), "uid:2001", func(_ context.Context, h gate.Held) (gate.Replacement, error) {
		if h.Instance != w.instanceOf(2001) {
			t.Error("it is not the app's instance")
		}
		return gate.Replacement{Instance: &copyOf{name: "restored"}}, nil
	})
	if err != nil {
		t.Error(err)
	}
	w.hears("route 2001 to restored every 0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Hold(ctx, "uid:2001", never); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
}

// A process that has ended is no app any more.
func TestLeft(t *testing.T) {
	w := newWorld(t)
	w.begin(service(func(s *spec.Service) { s.AppKey = spec.AppKeyPID }))
	ended := make(chan struct{})
	cmd := endsWith(t, ended)
	w.tell(wanted(uint64(cmd)))
	start, err := startTime(uint64(cmd))
	if err != nil {
		t.Fatal(err)
	}
	app := fmt.Sprintf("pid:%d.%d", cmd, start)
	w.hears("instance "+app, fmt.Sprintf("route %d to copy 1 every 0", cmd))
	close(ended)
	w.hears(fmt.Sprintf("route %d to nowhere every 0", cmd), "left "+app)
	w.tell(wanted(1 << 30))
	w.hears("route 1073741824 to nowhere every 0") // there is no such process
}

func TestKeys(t *testing.T) {
	if _, err := New(Config{Service: service(func(s *spec.Service) { s.AppKey = spec.AppKeyConnection })}); err == nil {
		t.Error("connections are accepted as apps")
	}
	if start, err := startTime(uint64(os.Getpid())); err != nil || start == 0 {
		t.Error(start, err)
	}
}

// Whatever comes in whatever order, calls for one app never overlap, and all that is asked for is done.
func TestRandomly(t *testing.T) {
	w := newWorld(t)
	g := w.begin(service(func(s *spec.Service) { s.Checkpoint = spec.CheckpointPolicy{Mode: spec.CheckpointEvery, N: 2} }))
	rng := rand.New(rand.NewPCG(3, 4))
	var holds sync.WaitGroup
	for range 2000 {
		key := 2001 + rng.Uint64N(5)
		switch rng.IntN(4) {
		case 0:
			w.tell(wanted(key))
		case 1:
			w.tell(engine.BinderEvent{Type: engine.BinderDue, Key: key})
		case 2:
			if in := w.instanceOf(key); in != nil {
				w.tell(engine.BinderEvent{Type: engine.BinderCrash, Instance: in})
			}
		case 3:
			holds.Add(1)
			go func() {
				defer holds.Done()
				app := instance.App(fmt.Sprint("uid:", key))
				err := g.Hold(context.Background(), app, func(context.Context, gate.Held) (gate.Replacement, error) {
					defer w.enter(app, "hold")()
					return gate.Replacement{}, nil
				})
				if err != nil && !errors.Is(err, gate.ErrUnknownApp) {
					t.Error(err)
				}
			}()
		}
	}
	holds.Wait()
	for key := uint64(2001); key < 2006; key++ {
		w.tell(wanted(key))
	}
	deadline := time.Now().Add(30 * time.Second)
	for key := uint64(2001); key < 2006; key++ {
		for w.instanceOf(key) == nil {
			if time.Now().After(deadline) {
				t.Fatalf("app %d has no instance", key)
			}
			time.Sleep(time.Millisecond)
		}
	}
}
