package socket

import (
	"context"
	"sync"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// earlyWorld is a world whose checkpoints let the app go on at once and are complete when the test says so.
type earlyWorld struct {
	*world
	complete chan struct{}

	mu             sync.Mutex
	begun, resumed int
	underWay       int
}

var _ gate.EarlyMonitor = (*earlyWorld)(nil)

func (w *earlyWorld) CheckpointEarly(ctx context.Context, app instance.App, trigger string, conns engine.Conns, resume func()) error {
	w.mu.Lock()
	w.begun++
	if w.underWay++; w.underWay > 1 {
		w.t.Error("a checkpoint was begun before the one before was complete")
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.underWay--
		w.mu.Unlock()
	}()
	err := w.Checkpoint(ctx, app, trigger, conns) // asserts that the instance is dormant
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.resumed++
	w.mu.Unlock()
	resume()
	select {
	case <-w.complete:
	case <-ctx.Done():
	}
	return nil
}

func (w *earlyWorld) counts() (begun, resumed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun, w.resumed
}

func openEarly(t *testing.T, every int) (*earlyWorld, *Gate, string) {
	w := &earlyWorld{world: newWorld(t), complete: make(chan struct{})}
	s := declare(t.TempDir())
	if every > 0 {
		s.Checkpoint = spec.CheckpointPolicy{Mode: spec.CheckpointEvery, N: every}
	}
	g, addr := w.open(s, func(c *Config) { c.Monitor = w })
	return w, g, addr
}

// The request after a checkpoint is answered while the checkpoint is being completed, the one after that is not
// delivered before: it would end in another checkpoint.
func TestCheckpointEarly(t *testing.T) {
	w, _, addr := openEarly(t, 2)
	c := dial(t, "unix", addr)
	for range 5 {
		c.must("1", "echo 1")
		c.must("1", "echo 1") // the second transaction: a checkpoint is due
		c.must("1", "echo 1") // while it is under way
		if begun, resumed := w.counts(); begun != resumed {
			t.Fatalf("%d checkpoints were begun and %d let the app go on", begun, resumed)
		}
		c.must("1", "echo 1") // due again
		blocked := make(chan string, 1)
		go func() {
			v, err := c.ask("echo 1")
			if err != nil {
				v = err.Error()
			}
			blocked <- v
		}()
		select {
		case v := <-blocked:
			t.Fatalf("a request got %q although a checkpoint before it could not begin", v)
		case <-time.After(50 * time.Millisecond):
		}
		w.complete <- struct{}{}
		if v := <-blocked; v != "1" {
			t.Fatalf("got %q, want 1", v)
		}
		w.complete <- struct{}{}
		c.must("1", "echo 1") // an even number of transactions
		w.complete <- struct{}{}
	}
}

// An instance that dies before its checkpoint is complete is replaced like any other.
func TestCrashBeforeCheckpointIsComplete(t *testing.T) {
	w, _, addr := openEarly(t, 2)
	c := dial(t, "unix", addr)
	c.must("1", "echo 1")
	c.must("1", "echo 1")
	if v, err := c.ask("crash"); err == nil {
		t.Fatalf("crash was answered with %q", v)
	}
	w.complete <- struct{}{}
	d := dial(t, "unix", addr)
	d.must("2", "echo 2")
	d.must("2", "echo 2")
	w.complete <- struct{}{}
	d.must("2", "echo 2")
}

// Who holds an app can let it go on before its time is over; the next one has to wait.
func TestHoldResumes(t *testing.T) {
	_, g, addr := openEarly(t, 0)
	c := dial(t, "unix", addr)
	c.must("1", "echo 1")
	app := g.Stats()[0].App
	second := make(chan error, 1)
	var first, ended sync.WaitGroup
	ended.Add(1)
	first.Add(1)
	go func() {
		first.Wait()
		second <- g.Hold(t.Context(), app, func(context.Context, gate.Held) (gate.Replacement, error) {
			ended.Wait()
			return gate.Replacement{}, nil
		})
	}()
	over := false
	err := g.Hold(t.Context(), app, func(_ context.Context, held gate.Held) (gate.Replacement, error) {
		if !held.Instance.Dormant() {
			t.Error("the instance of a held app runs")
		}
		held.Resume()
		c.must("1", "echo 1")
		first.Done()
		select {
		case err := <-second:
			t.Errorf("a second hold was granted during the first: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		over = true
		ended.Done()
		return gate.Replacement{}, nil
	})
	if err != nil || !over {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	c.must("1", "echo 1")
}
