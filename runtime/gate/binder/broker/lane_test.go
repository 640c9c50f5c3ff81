package broker

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// counted is an instance that only counts.
type counted struct {
	active  atomic.Bool
	running *atomic.Int32 // of all
}

func (c *counted) PID() int                       { return 1 }
func (c *counted) PIDFD() int                     { return -1 }
func (c *counted) Dormant() bool                  { return !c.active.Load() }
func (c *counted) Dial(int) (int, error)          { return -1, errors.ErrUnsupported }
func (c *counted) Exit() engine.Exit              { return engine.Exit{} }
func (c *counted) Memory() (engine.Memory, error) { return engine.Memory{}, errors.ErrUnsupported }
func (c *counted) Kill() error                    { return nil }
func (c *counted) Handle() json.RawMessage        { return nil }

func (c *counted) Activate() error {
	if !c.active.Swap(true) {
		c.running.Add(1)
	}
	return nil
}

func (c *counted) Park(time.Duration) error {
	if c.active.Swap(false) {
		c.running.Add(-1)
	}
	return nil
}

// newLanes makes a broker without a device and apps with instances.
func newLanes(t *testing.T, concurrency spec.Concurrency, names ...instance.App) (*Broker, []*app, *atomic.Int32) {
	t.Helper()
	b := &Broker{
		cfg: Config{Service: &spec.Service{Concurrency: concurrency}}, log: logrus.NewEntry(logrus.New()), apps: map[instance.App]*app{},
	}
	b.ctx, b.cancel = context.WithCancel(t.Context())
	b.arrived = sync.NewCond(&b.mu)
	if concurrency != spec.Parallel {
		b.common = b.newLane()
	}
	running := new(atomic.Int32)
	var apps []*app
	for _, name := range names {
		a := b.app(name)
		a.inst, a.copies = &counted{running: running}, &copies{uses: 1}
		apps = append(apps, a)
	}
	return b, apps, running
}

// queued waits until so many transactions wait.
func (b *Broker) queued(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		b.mu.Lock()
		have := b.waiting
		b.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d transactions wait, want %d", have, n)
		}
	}
}

// Whatever is interleaved, a transaction runs in its own app's active instance, with strict in the only one, and all come
// to their end. Others take apps for themselves meanwhile.
func TestTurns(t *testing.T) {
	for _, concurrency := range []spec.Concurrency{spec.Strict, spec.Parallel} {
		t.Run(string(concurrency), func(t *testing.T) {
			b, apps, running := newLanes(t, concurrency, "a", "b", "c", "d")
			var group sync.WaitGroup
			const each = 300
			for range 3 {
				for _, a := range apps {
					group.Go(func() {
						for range each {
							c, err := b.enter(a)
							if err != nil {
								t.Error(err)
								return
							}
							if n := running.Load(); a.inst.Dormant() || concurrency == spec.Strict && n != 1 {
								t.Errorf("the instance is dormant: %v; %d are active", a.inst.Dormant(), n)
							}
							time.Sleep(time.Duration(rand.IntN(20)) * time.Microsecond)
							b.leave(a, c)
						}
					})
				}
			}
			for _, a := range apps {
				group.Go(func() {
					for range 30 {
						b.mu.Lock()
						if err := b.take(t.Context(), a, true); err != nil {
							t.Error(err)
						}
						if err := b.rest(a); err != nil || a.users != 0 || !a.inst.Dormant() {
							t.Errorf("alone with %s: %v, %d users", a.key, err, a.users)
						}
						b.give(a)
						b.mu.Unlock()
						time.Sleep(time.Millisecond)
					}
				})
			}
			group.Wait()
			for _, a := range apps {
				if a.transactions != 3*each || a.users != 0 || a.wanted != 0 || a.exclusive || a.copies.uses != 1 {
					t.Errorf("app %s ends as %+v", a.key, a)
				}
			}
			if b.waiting != 0 {
				t.Errorf("%d transactions still wait", b.waiting)
			}
		})
	}
}

// Turns come in the order in which they were asked for, and all that wait for one app have theirs together.
func TestTurnsInOrder(t *testing.T) {
	b, apps, _ := newLanes(t, spec.Strict, "a", "b", "c")
	held, err := b.enter(apps[0])
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan instance.App, 10)
	ends := make(chan struct{})
	var group sync.WaitGroup
	for i, n := range []int{1, 2, 0, 1} {
		group.Go(func() {
			c, err := b.enter(apps[n])
			if err != nil {
				t.Error(err)
				return
			}
			got <- apps[n].key
			<-ends
			b.leave(apps[n], c)
		})
		b.queued(t, i+1)
	}
	b.leave(apps[0], held)
	for _, turn := range [][]instance.App{{"b", "b"}, {"c"}, {"a"}} {
		for _, want := range turn {
			select {
			case key := <-got:
				if key != want {
					t.Errorf("it is %s's turn, want %s", key, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("it is nobody's turn, want %s", want)
			}
		}
		for range turn {
			ends <- struct{}{}
		}
	}
	group.Wait()
}

// Who waits when the broker is closed is sent away, and so is who comes later.
func TestTurnAway(t *testing.T) {
	b, apps, _ := newLanes(t, spec.Strict, "a", "b")
	held, err := b.enter(apps[0])
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := b.enter(apps[1])
			errs <- err
		}()
	}
	b.queued(t, 2)
	b.mu.Lock()
	b.turnAway()
	b.mu.Unlock()
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("who waited got %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("somebody still waits")
		}
	}
	b.leave(apps[0], held)
	if _, err := b.enter(apps[0]); !errors.Is(err, ErrClosed) {
		t.Errorf("who comes later got %v", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.take(t.Context(), apps[0], true); !errors.Is(err, ErrClosed) {
		t.Errorf("who wants an app gets %v", err)
	}
}

// An app that somebody waits for alone gets no new transactions, and gives up with its context.
func TestTakeGivesUp(t *testing.T) {
	b, apps, _ := newLanes(t, spec.Strict, "a")
	held, err := b.enter(apps[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	b.mu.Lock()
	if err := b.take(ctx, apps[0], true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an app that is in use was given: %v", err)
	}
	b.mu.Unlock()
	again, err := b.enter(apps[0]) // nobody is in the way any more
	if err != nil {
		t.Fatal(err)
	}
	b.leave(apps[0], again)
	b.leave(apps[0], held)
}
