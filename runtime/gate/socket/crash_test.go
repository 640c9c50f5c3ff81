package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

func byUID(t *testing.T) *spec.Service {
	s := declare(t.TempDir())
	s.AppKey = spec.AppKeyUID
	return s
}

// Only the connection whose request died with the instance is answered. All of them go on, plumbed or dialled.
func TestCrashKeepsConnections(t *testing.T) {
	for _, plumbed := range []bool{true, false} {
		t.Run(fmt.Sprintf("plumbed=%v", plumbed), func(t *testing.T) {
			w := newWorld(t)
			if !plumbed {
				w.onCrash = func(app instance.App, _ []engine.ConnID) (gate.Replacement, error) { return w.plumb(app, nil) }
			}
			s := byUID(t)
			s.CrashReply = "-ERR crashed\n"
			_, addr := w.open(s)
			for range 2 { // the second crash meets a replaced instance
				idle, culprit := dial(t, "unix", addr), dial(t, "unix", addr)
				idle.must("x", "echo x")
				culprit.must("x", "echo x")
				culprit.must("-ERR crashed", "crash")
				culprit.must("1", "incr")
				idle.must("2", "incr")
				culprit.must("3", "incr")
			}
		})
	}
}

func TestCrashLeavesOthersAlone(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	a, b := dial(t, "unix", addr), dial(t, "unix", addr)
	a.must("1", "incr")
	b.must("1", "incr")
	if _, err := a.ask("crash"); err == nil {
		t.Error("without a crash reply the connection should be reset")
	}
	b.must("2", "incr")
}

func TestRetry(t *testing.T) {
	w := newWorld(t)
	s := byUID(t)
	s.OnCrash = spec.CrashPolicy{Mode: spec.CrashRetry, Retries: 2}
	s.CrashReply = "-ERR\n"
	_, addr := w.open(s)
	file := filepath.Join(t.TempDir(), "crash")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, "unix", addr)
	c.must("a", "echo a")
	c.must("survived", "crash-once %s", file)
	c.must("b", "echo b")
	c.must("-ERR", "crash") // at most twice
	w.mu.Lock()
	if n := len(w.all); n != 1+1+3 {
		t.Errorf("%d instances were made, want 5", n)
	}
	w.mu.Unlock()
}

func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	w.onCrash = func(instance.App, []engine.ConnID) (gate.Replacement, error) {
		return gate.Replacement{}, fmt.Errorf("third crash: %w", gate.ErrQuarantined)
	}
	s := byUID(t)
	s.CrashReply = "-ERR quarantined\n"
	g, addr := w.open(s)
	idle, culprit := dial(t, "unix", addr), dial(t, "unix", addr)
	idle.must("1", "incr")
	culprit.ends("-ERR quarantined\n", "crash")
	waiting, again := dial(t, "unix", addr), dial(t, "unix", addr)
	for _, c := range []*client{idle, again} {
		c.unanswered()
		c.ends("-ERR quarantined\n", "incr")
	}
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	err := g.Hold(context.Background(), app, func(_ context.Context, h gate.Held) (gate.Replacement, error) {
		if h.Instance != nil {
			t.Error("a quarantined app has an instance")
		}
		return w.plumb(app, h.Open)
	})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, "unix", addr).must("1", "incr")
	waiting.must("2", "incr") // it had asked nothing meanwhile
}

// Without a crash reply there is nothing to wait for.
func TestQuarantineWithoutReply(t *testing.T) {
	w := newWorld(t)
	w.onInstance = func(instance.App) error { return gate.ErrQuarantined }
	_, addr := w.open(byUID(t))
	c := dial(t, "unix", addr)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if all, err := io.ReadAll(c.r); len(all) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestHoldReplacesUnderOpenConnections(t *testing.T) {
	w := newWorld(t)
	g, addr := w.open(byUID(t))
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	ctx := context.Background()
	if err := g.Hold(ctx, app, nil); !errors.Is(err, gate.ErrUnknownApp) {
		t.Errorf("hold of an unknown app: %v", err)
	}
	a, b := dial(t, "unix", addr), dial(t, "unix", addr)
	a.must("1", "incr")
	b.must("2", "incr")
	answer := make(chan string, 1)
	err := g.Hold(ctx, app, func(_ context.Context, h gate.Held) (gate.Replacement, error) {
		if !h.Instance.Dormant() || len(h.Conns) != 2 || len(h.Open) != 2 {
			t.Errorf("dormant %v, %d sockets, %d connections", h.Instance.Dormant(), len(h.Conns), len(h.Open))
		}
		go func() { s, _ := a.ask("incr"); answer <- s }()
		select {
		case s := <-answer:
			t.Errorf("answered %q while held", s)
		case <-time.After(50 * time.Millisecond):
		}
		_ = h.Instance.(*fake).Kill()
		return w.plumb(app, h.Open)
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := <-answer; s != "1" {
		t.Errorf("after the restore: %q", s)
	}
	b.must("2", "incr")
	sentinel := errors.New("no")
	if err := g.Hold(ctx, app, func(context.Context, gate.Held) (gate.Replacement, error) { return gate.Replacement{}, sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("hold returned %v", err)
	}
	a.must("3", "incr")
}

func TestCheckpointTriggers(t *testing.T) {
	for name, p := range map[string]spec.CheckpointPolicy{
		"every=2":  {Mode: spec.CheckpointEvery, N: 2},
		"interval": {Mode: spec.CheckpointInterval, Interval: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := byUID(t)
			s.Checkpoint = p
			_, addr := w.open(s)
			a, b := dial(t, "unix", addr), dial(t, "unix", addr)
			for i := range 10 {
				a.must(strconv.Itoa(2*i+1), "incr")
				b.must(strconv.Itoa(2*i+2), "incr")
				if p.Mode == spec.CheckpointInterval {
					time.Sleep(6 * time.Millisecond)
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			n := len(w.checkpoints)
			if p.Mode == spec.CheckpointEvery && (n < 9 || n > 10) || n < 2 {
				t.Errorf("%d checkpoints after 20 transactions", n)
			}
			for _, conns := range w.checkpoints[2:] {
				if len(conns) != 2 {
					t.Errorf("a checkpoint knew %d of 2 sockets", len(conns))
				}
			}
		})
	}
}

// Somebody who never answers costs the others a bounded time once, not for each request.
func TestTransactionWithoutEnd(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	stuck, busy := dial(t, "unix", addr), dial(t, "unix", addr)
	_, _ = io.WriteString(stuck, "silent\n")
	begin := time.Now()
	for i := range 200 {
		busy.must(strconv.Itoa(i+1), "incr")
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("200 requests took %v", d)
	}
	stuck.must("1", "incr")
	_, _ = io.WriteString(stuck, "sleep 300ms\n") // computes for longer than a quantum
	for i := range 50 {
		busy.must(strconv.Itoa(i+201), "incr")
	}
	_ = stuck.SetDeadline(time.Now().Add(20 * time.Second))
	if line, err := stuck.r.ReadString('\n'); line != "slept\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestParallel(t *testing.T) {
	w := newWorld(t)
	s := declare(t.TempDir())
	s.Concurrency = spec.Parallel
	_, addr := w.open(s)
	a, b := dial(t, "unix", addr), dial(t, "unix", addr)
	a.must("1", "incr")
	_, _ = io.WriteString(a, "sleep 1s\n")
	for i := range 20 {
		b.must(strconv.Itoa(i+1), "incr")
	}
	if line, err := a.r.ReadString('\n'); line != "slept\n" {
		t.Errorf("%q, %v", line, err)
	}
	for end := time.Now().Add(10 * time.Second); w.running.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d idle instances are still active", w.running.Load())
		}
	}
	a.must("2", "incr")
}

// A gate that is told to end while somebody holds an app waits for that, and gives the app back.
func TestEndWhileHeld(t *testing.T) {
	w := newWorld(t)
	s := byUID(t)
	g, err := New(Config{Service: s, Monitor: w})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx) }()
	for _, err := os.Stat(s.Endpoints[0].Address); err != nil; _, err = os.Stat(s.Endpoints[0].Address) {
		time.Sleep(time.Millisecond)
	}
	dial(t, "unix", s.Endpoints[0].Address).must("1", "incr")
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	second := make(chan error, 1)
	err = g.Hold(context.Background(), app, func(context.Context, gate.Held) (gate.Replacement, error) {
		go func() {
			second <- g.Hold(context.Background(), app, func(context.Context, gate.Held) (gate.Replacement, error) {
				return gate.Replacement{}, nil
			})
		}()
		time.Sleep(20 * time.Millisecond)
		cancel()
		select {
		case err := <-served:
			t.Errorf("the gate ended while an app was held: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		return gate.Replacement{}, nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, c := range []chan error{served, second} {
		select {
		case err := <-c:
			if err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the gate does not end")
		}
	}
	if _, err := os.Stat(s.Endpoints[0].Address); err == nil {
		t.Error("the public socket was left behind")
	}
	if err := g.Hold(context.Background(), app, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("hold after the end: %v", err)
	}
}

// Two holds that wait for one another's end are granted one after the other.
func TestHoldsQueue(t *testing.T) {
	w := newWorld(t)
	g, addr := w.open(byUID(t))
	c := dial(t, "unix", addr)
	c.must("1", "incr")
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			err := g.Hold(context.Background(), app, func(context.Context, gate.Held) (gate.Replacement, error) {
				if inside.Add(1) != 1 {
					t.Error("two holds at once")
				}
				time.Sleep(5 * time.Millisecond)
				inside.Add(-1)
				return gate.Replacement{}, nil
			})
			if err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	c.must("2", "incr")
}
