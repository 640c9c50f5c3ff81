package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// crashed is a monitor that takes note of crashes.
type crashed struct {
	gate.Monitor
	apps chan instance.App
}

func (c crashed) Crashed(_ context.Context, app instance.App, _ engine.Exit, _ []engine.ConnID) (gate.Replacement, error) {
	c.apps <- app
	return gate.Replacement{}, errors.New("there is no other")
}

// The death of an instance that somebody is about to give to its app is not lost.
func TestDeathBeforeTheFirstTurn(t *testing.T) {
	b, apps, _ := newLanes(t, spec.Strict, "a")
	told := make(chan instance.App, 2)
	b.cfg.Monitor = crashed{apps: told}
	a := apps[0]
	in := a.inst
	b.mu.Lock()
	a.inst = nil
	if err := b.take(t.Context(), a, false); err != nil {
		t.Fatal(err)
	}
	b.mu.Unlock()
	b.died(a, in)
	b.mu.Lock()
	a.inst = in
	b.give(a)
	b.mu.Unlock()
	select {
	case key := <-told:
		if key != a.key {
			t.Errorf("the monitor is told of %s", key)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the monitor is not told")
	}
	b.workers.Wait()
	if a.inst != nil || a.exclusive || a.wanted != 0 {
		t.Errorf("the app ends as %+v", a)
	}
}

// That of one that is not the app's any more concerns nobody.
func TestDeathOfAFormerInstance(t *testing.T) {
	b, apps, running := newLanes(t, spec.Strict, "a")
	told := make(chan instance.App, 2)
	b.cfg.Monitor = crashed{apps: told}
	in := apps[0].inst
	b.died(apps[0], &counted{running: running})
	b.workers.Wait()
	if len(told) != 0 || apps[0].inst != in {
		t.Errorf("the monitor was told %d times, the app has %v", len(told), apps[0].inst)
	}
}
