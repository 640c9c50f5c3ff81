package broker_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// failed is what an app gets whose instance has died in its call.
const failed = "error: status -2147483646 (failed transaction)"

// Every app has its own state, under one name, and each can be captured and restored.
func TestPrivateState(t *testing.T) {
	w := newWorld(t, nil)
	one, two, three := w.app(2001), w.app(2002), w.app(2003)
	for _, a := range []*app{one, two, three} {
		a.want("empty", "get")
	}
	one.want("ok", "set", "first")
	two.want("ok", "set", "second")
	one.want("first", "get")
	two.want("second", "get")
	three.want("empty", "get")
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("first", "get")
	one.want("ok", "set", "changed")
	one.want("changed", "get")
	two.want("second", "get")
	for range 3 { // from the same checkpoint
		if err := w.restore("uid:2001"); err != nil {
			t.Fatal(err)
		}
		one.want("first", "get")
		one.want("ok", "set", "changed again")
	}
	// A checkpoint of a restored instance, and one of that.
	for _, text := range []string{"deeper", "deepest"} {
		one.want("ok", "set", text)
		if err := w.checkpoint("uid:2001"); err != nil {
			t.Fatal(err)
		}
		one.want("ok", "set", "lost")
		if err := w.restore("uid:2001"); err != nil {
			t.Fatal(err)
		}
		one.want(text, "get")
	}
	two.want("second", "get")
	one.want("0", "deaths")
	first := one.ask("identity")
	if second := two.ask("identity"); first != second || !strings.HasPrefix(first, fmt.Sprintf("pid %d,", w.pid)) {
		t.Errorf("instances are %q and %q, want pid %d for both", first, second, w.pid)
	}
}

// What objects answer by themselves is answered, and other objects on the device are called as ever.
func TestOrdinaryClient(t *testing.T) {
	w := newWorld(t, nil)
	a := w.app(2001)
	a.want("ok", "ping")
	if w.instance("uid:2001") != nil {
		t.Error("a ping has made an instance")
	}
	a.want("test.IStore", "interface")
	a.want("test.IStore", "interface")
	a.want("ok", "lookup")
	a.want("from the service, exe", "write")
}

// A crash concerns the app that was calling, which gets its newest checkpoint back.
func TestCrash(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	one.want("ok", "set", "kept")
	two.want("ok", "set", "other")
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("ok", "set", "lost")
	crashing := one.begin("crash")
	waiting := two.begin("get")
	if got := waiting(); got != "other" {
		t.Errorf("the other app got %q", got)
	}
	if got := crashing(); got != failed {
		t.Errorf("the call that crashed gave %q", got)
	}
	one.want("kept", "get")
	two.want("other", "get")
	one.want(failed, "crash")
	one.want("kept", "get")
	two.want(failed, "crash")
	two.want("empty", "get")
	one.want("0", "deaths")
	two.want("0", "deaths")
	if n := w.monitor.Counts().Crashes; n != 3 {
		t.Errorf("the monitor was told of %d crashes", n)
	}
}

// With on-crash=retry the request is sent again, and no more often than that.
func TestRetry(t *testing.T) {
	w := newWorld(t, func(s *spec.Service) { s.OnCrash = spec.CrashPolicy{Mode: spec.CrashRetry, Retries: 1} })
	a := w.app(2001)
	a.want("ok", "once", filepath.Join(t.TempDir(), "crashed"))
	a.want(failed, "crash")
	a.want("empty", "get")
	if n := w.monitor.Counts().Crashes; n != 3 {
		t.Errorf("the monitor was told of %d crashes", n)
	}
}

// An app to which the monitor gives no instance is told so by an error, every time, and can be served again.
func TestRefusedApp(t *testing.T) {
	w := newWorld(t, nil)
	a, other := w.app(2001), w.app(2002)
	a.want("empty", "get")
	w.monitor.Refuse(gate.ErrQuarantined)
	a.want(failed, "crash")
	a.want(failed, "get")
	other.want(failed, "get")
	w.monitor.Refuse(nil)
	a.want("empty", "get")
	other.want("empty", "get")
}

// Calls within calls go to the instance that the outer call is in, and never wait for a turn.
func TestNested(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	one.want("ok", "set", "1")
	two.want("ok", "set", "2")
	for range 5 {
		first, second := one.begin("callback"), two.begin("callback")
		if a, b := first(), second(); a != "called back: 1" || b != "called back: 2" {
			t.Fatalf("the callbacks gave %q and %q", a, b)
		}
	}
	one.want("true", "self")
	one.want("true", "same")
}

// What a service hands out that no stand-in stands for does not reach the app, and the app can go on.
func TestNewObject(t *testing.T) {
	w := newWorld(t, nil)
	a := w.app(2001)
	a.want("ok", "set", "x")
	if got := a.ask("new"); !strings.HasPrefix(got, "error: ") {
		t.Errorf("an object without a name came through: %q", got)
	}
	a.want("x", "get")
}

// An instance that keeps an app's object cannot be captured, with the handle's name; when it has let go of it, it can.
func TestKeptReference(t *testing.T) {
	w := newWorld(t, nil)
	a := w.app(2001)
	a.want("ok", "keep")
	err := w.checkpoint("uid:2001")
	var refusal *engine.Refusal
	if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Blockers[0].Object, "Binder handle ") {
		t.Errorf("the checkpoint gave %v", err)
	}
	a.want("empty", "get")
	a.want("ok", "forget")
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Error(err)
	}
	a.want("empty", "get")
}

// What cannot be made anew is named when the service is to be adopted, and the service is as before.
func TestAdoptRefusals(t *testing.T) {
	for manner, object := range map[string]string{"twice": "fd ", "holds": "Binder handle "} {
		t.Run(manner, func(t *testing.T) {
			w := prepareWorld(t, nil, manner)
			b, err := w.broker.Seal(w.pid)
			if err != nil {
				t.Fatal(err)
			}
			_, err = fork.New().Adopt(context.Background(), w.target(b))
			var refusal *engine.Refusal
			if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Blockers[0].Object, object) {
				t.Errorf("the adoption gave %v", err)
			}
		})
	}
	t.Run("undeclared", func(t *testing.T) {
		w := prepareWorld(t, nil)
		_, err := fork.New().Adopt(context.Background(), w.target(nil))
		if !errors.Is(err, engine.ErrRefused) {
			t.Errorf("the adoption without a broker gave %v", err)
		}
	})
}

// What is sent oneway is carried out by the right instance, and before another app has its turn.
func TestOneway(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	one.want("0", "total")
	two.want("0", "total")
	for round := range 5 {
		for n := 1; n <= 4; n++ {
			one.want("ok", "add", n)
		}
		w.await("the first app's oneway transactions are passed on", func() bool { return w.transactions("uid:2001") == uint64(1+4*(round+1)) })
		two.ask("get")
		in := w.instance("uid:2001").(engine.BrokeredInstance)
		if idle, err := in.BrokerIdle(); err != nil || !idle || !in.Dormant() {
			t.Fatalf("the first app's instance: idle %v, dormant %v, %v", idle, in.Dormant(), err)
		}
	}
	// Both send while the other has its turn: the order among them is Binder's.
	for range 5 {
		one.want("ok", "add", 1)
		two.want("ok", "add", 100)
	}
	w.await("all is added up", func() bool { return one.ask("total") == "55" && two.ask("total") == "500" })
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("ok", "add", 7)
	w.await("it is added", func() bool { return one.ask("total") == "62" })
	if err := w.restore("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("55", "total")
}

// transactions returns how many the broker has counted for an app.
func (w *world) transactions(key instance.App) uint64 {
	for _, s := range w.broker.Stats() {
		if s.App == key {
			return s.Transactions
		}
	}
	return 0
}

// await waits a long time for what should come soon.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not after 30 s", what)
		}
	}
}

// Many apps that call without a pause see nothing of each other. With strict, one instance is active at a time.
func TestCrowd(t *testing.T) {
	for _, concurrency := range []spec.Concurrency{spec.Strict, spec.Parallel} {
		t.Run(string(concurrency), func(t *testing.T) {
			w := newWorld(t, func(s *spec.Service) { s.Concurrency = concurrency })
			var apps []*app
			for uid := range uint32(4) {
				for range 2 { // two processes of each
					apps = append(apps, w.app(2001+uid))
				}
			}
			for i := 0; i < len(apps); i += 2 {
				apps[i].want("ok", "set", 2001+i/2)
			}
			var answers []func() string
			for _, a := range apps {
				answers = append(answers, a.begin("hammer", 60))
			}
			for _, answer := range answers {
				if got := answer(); got != "ok" {
					t.Error(got)
				}
			}
			if n := w.monitor.MostActive(); concurrency == spec.Strict && n != 1 {
				t.Errorf("%d instances were active at once", n)
			}
			var switches, transactions uint64
			for _, s := range w.broker.Stats() {
				switches, transactions = switches+s.Switches, transactions+s.Transactions
			}
			if want := uint64(len(apps)*120 + len(apps)/2); transactions != want {
				t.Errorf("%d transactions were counted, want %d", transactions, want)
			}
			t.Logf("%d switches in %d transactions", switches, transactions)
		})
	}
}

// A policy captures after so many transactions, off the caller's path, and what is restored is what was captured last.
func TestCheckpointPolicy(t *testing.T) {
	w := newWorld(t, func(s *spec.Service) { s.Checkpoint = spec.CheckpointPolicy{Mode: spec.CheckpointEvery, N: 2} })
	a := w.app(2001)
	for _, text := range []string{"a", "b", "c", "d", "e"} {
		a.want("ok", "set", text)
	}
	a.want(failed, "crash")
	a.want("d", "get")
	if c := w.monitor.Counts(); c.Captures < 2 || c.Failed != nil {
		t.Errorf("%d checkpoints, the last one: %v", c.Captures, c.Failed)
	}
}

// With app-key=pid processes of one user are apps of their own, and come to an end.
func TestProcesses(t *testing.T) {
	w := newWorld(t, func(s *spec.Service) { s.AppKey = spec.AppKeyPID })
	one, two := w.app(2001), w.app(2001)
	one.want("ok", "set", "1")
	two.want("empty", "get")
	one.want("1", "get")
	if got := one.ask("add", 1); got != "ok" { // sent; the driver tells nobody who by
		t.Error(got)
	}
	one.want("0", "total")
	one.kill()
	w.await("the monitor is told that the app has ended", func() bool { return w.monitor.Counts().Left == 1 })
	two.want("empty", "get")
	if n := len(w.broker.Stats()); n != 1 {
		t.Errorf("%d apps are left", n)
	}
}
