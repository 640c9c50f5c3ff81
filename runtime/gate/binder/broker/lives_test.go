package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/gate/binder/broker"
	"corsa.dev/corsa/runtime/instance"
)

// When the broker dies, apps see one death, and find their own state again under another broker.
func TestTakeover(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	one.want("ok", "set", "1")
	two.want("ok", "set", "2")
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("ok", "set", "changed")
	state, err := w.broker.State()
	if err != nil {
		t.Fatal(err)
	}
	handle := w.svc.Handle()
	saved := map[instance.App][2]json.RawMessage{}
	for _, key := range []instance.App{"uid:2001", "uid:2002"} {
		in, img := w.monitor.Of(key)
		saved[key] = [2]json.RawMessage{in.Handle(), nil}
		if img != nil {
			saved[key] = [2]json.RawMessage{in.Handle(), img.Handle()}
		}
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.svc.Close(); err != nil {
		t.Fatal(err)
	}
	one.want("error: binder object 1, code 2: object is dead", "get")
	w.takeOver(state, handle, saved)
	for _, a := range []*app{one, two} {
		a.want("1", "deaths")
		a.want("ok", "find")
	}
	one.want("changed", "get")
	two.want("2", "get")
	if err := w.restore("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("1", "get")
	one.want("1", "deaths")
}

// takeOver makes another broker and recovers the service for it, with the handles of each app's instance and image.
func (w *world) takeOver(state, handle json.RawMessage, saved map[instance.App][2]json.RawMessage) {
	w.t.Helper()
	w.newBroker()
	b, err := w.broker.Resume(state)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx := context.Background()
	if w.svc, err = fork.New().Recover(ctx, w.target(b), handle); err != nil {
		w.t.Fatal(err)
	}
	w.adopted()
	for key, handles := range saved {
		in, err := w.svc.OpenInstance(ctx, handles[0])
		if err != nil {
			w.t.Fatal(err)
		}
		var img engine.Image
		if handles[1] != nil {
			if img, err = w.svc.OpenImage(ctx, handles[1]); err != nil {
				w.t.Fatal(err)
			}
		}
		w.monitor.Put(key, in, img)
	}
	w.serve()
}

// Apps and instances that are killed at any moment leave nothing behind that others would wait for.
func TestDeaths(t *testing.T) {
	w := newWorld(t, nil)
	steady := w.app(2001)
	steady.want("ok", "set", "2001")
	for round := range 8 {
		var victims []*app
		for uid := range uint32(3) {
			v := w.app(2002 + uid)
			v.want("ok", "set", 2002+uid)
			victims = append(victims, v)
		}
		for _, v := range victims {
			v.begin("hammer", 1000)
		}
		answer := steady.begin("hammer", 10)
		time.Sleep(time.Duration(round) * 3 * time.Millisecond)
		victims[0].kill()
		w.monitor.KillInstance("uid:2003")
		victims[1].kill()
		victims[2].kill()
		if got := answer(); got != "ok" {
			t.Fatalf("round %d: %s", round, got)
		}
	}
	steady.want("2001", "get")
	steady.want("0", "deaths")
}

// The broker can be closed whatever is under way.
func TestClose(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	one.want("empty", "get")
	first := one.begin("sleep", int64(10*time.Second))
	w.await("the call is under way", func() bool { return w.instance("uid:2001") != nil && !w.instance("uid:2001").Dormant() })
	second := two.begin("get")
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if a, b := first(), second(); !strings.HasPrefix(a, "error: ") || !strings.HasPrefix(b, "error: ") {
		t.Errorf("the calls under way gave %q and %q", a, b)
	}
	if err := w.broker.Hold(context.Background(), "uid:2001", nil); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("a closed broker's Hold gave %v", err)
	}
}
