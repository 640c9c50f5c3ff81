package kmod

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/kmod/client/clienttest"
	"corsa.dev/corsa/runtime/engine"
)

// gated is a service behind a gate, on a module that keeps what is asked of it.
func gated(t *testing.T) (*module, *service) {
	t.Helper()
	m := newModule()
	ok := func(any) (int, unix.Errno) { return 0, 0 }
	m.Replies["BinderEnable"], m.Replies["BinderRoute"] = ok, ok
	m.Replies["Restore"] = func(arg any) (int, unix.Errno) {
		m.mu.Lock()
		defer m.mu.Unlock()
		a := arg.(*clienttest.Restore)
		if m.records[a.Image]&client.Image == 0 {
			return -1, unix.ENOENT
		}
		if _, ok := m.records[a.Instance]; !ok {
			return -1, unix.ENOENT
		}
		m.records[a.Instance] = 0
		return 0, 0
	}
	target := sleeper(t)
	target.Binder = &engine.BinderTarget{Key: engine.BinderUID}
	target.Log.Logger.SetOutput(io.Discard)
	svc, err := m.engine().Adopt(context.Background(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return m, svc.(*service)
}

// since lists the requests after the first n, and how each ACTIVATE was meant.
func (m *module) since(n int) []string {
	var list []string
	calls := m.Calls()
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := m.asked
	for i := len(calls) - 1; i >= n; i-- {
		name := calls[i]
		if name == "Activate" {
			a := asked[len(asked)-1]
			asked = asked[:len(asked)-1]
			if a.Flags&uint32(client.Hold) != 0 {
				name = "Hold"
			}
		}
		list = append(list, name)
	}
	slices.Reverse(list)
	return list
}

// The gate comes before the first copy, as the module wants it.
func TestGateFirst(t *testing.T) {
	m, _ := gated(t)
	calls := m.Calls()
	enable, copied := slices.Index(calls, "BinderEnable"), slices.Index(calls, "Checkpoint")
	if enable < 0 || copied < enable {
		t.Errorf("%v", calls)
	}
}

// A copy is made while nothing can run, and its descriptors are read at the same moment.
func TestGatedCheckpoint(t *testing.T) {
	m, s := gated(t)
	in := branch(t, s)
	before := len(m.Calls())
	if _, _, err := s.Checkpoint(context.Background(), in, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := m.since(before), []string{"List", "Hold", "Checkpoint", "Activate", "FDs"}; !slices.Equal(got, want) &&
		!slices.Equal(got, want[:4]) {
		t.Errorf("%v, want %v", got, want)
	}
	m.Replies["Checkpoint"] = func(any) (int, unix.Errno) { return -1, unix.ENOMEM }
	before = len(m.Calls())
	if _, _, err := s.Checkpoint(context.Background(), in, nil); err == nil {
		t.Error("it succeeds without memory")
	}
	if got := m.since(before); got[len(got)-1] != "Activate" {
		t.Errorf("the process is left standing: %v", got)
	}
}

// Rewind changes the instance while another record, which is nobody's, keeps the process still.
func TestRewind(t *testing.T) {
	m, s := gated(t)
	in := branch(t, s)
	event := clienttest.Event{Type: uint32(client.EventCrashed), ID: in.id, Next: client.None, Signo: int32(unix.SIGSEGV)}
	if err := m.Emit(event, event); err != nil {
		t.Fatal(err)
	}
	if e := s.next(t); len(e) != 1 || e[0].Type != engine.BinderCrash || e[0].Instance != engine.Instance(in) {
		t.Fatalf("%+v", e)
	}
	if !readable(t, in.PIDFD(), 0) {
		t.Error("the crash is not to be seen")
	}
	before := len(m.Calls())
	if err := s.Rewind(context.Background(), in, s.Base()); err != nil {
		t.Fatal(err)
	}
	if got := m.since(before); !slices.Equal(got[:3], []string{"List", "Hold", "Restore"}) || got[len(got)-1] != "Activate" {
		t.Errorf("%v", got)
	}
	if readable(t, in.PIDFD(), 0) {
		t.Error("it is dead still")
	}
	if err := m.Emit(event); err != nil {
		t.Fatal(err)
	}
	if e := s.next(t); len(e) != 1 || e[0].Type != engine.BinderCrash {
		t.Errorf("the next crash: %+v", e)
	}
	m.Replies["Restore"] = func(any) (int, unix.Errno) { return -1, unix.ENOMEM }
	if err := s.Rewind(context.Background(), in, s.Base()); err == nil || !readable(t, in.PIDFD(), 0) {
		t.Errorf("without memory: %v", err)
	}
}

// next are the next events.
func (s *service) next(t *testing.T) []engine.BinderEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events, err := s.BinderEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestBinderEvents(t *testing.T) {
	m, s := gated(t)
	m.Replies["BinderRoutes"] = func(arg any) (int, unix.Errno) {
		a := arg.(*clienttest.BinderRoutes)
		a.Count = 3
		list := clienttest.Slice[clienttest.BinderRouteInfo](a.Routes, 3)
		list[0] = clienttest.BinderRouteInfo{Key: 1, Flags: uint32(client.RouteWanted), ID: client.None}
		list[1] = clienttest.BinderRouteInfo{Key: 2, Flags: uint32(client.RouteDue)}
		list[2] = clienttest.BinderRouteInfo{Key: 3}
		return 0, 0
	}
	collect := func(n int) (got []engine.BinderEvent) {
		for len(got) < n {
			got = append(got, s.next(t)...)
		}
		return got
	}
	wanted := clienttest.Event{Type: uint32(client.EventBinderWanted), ID: client.None, Addr: 2001}
	due := clienttest.Event{Type: uint32(client.EventBinderDue), Addr: 2002}
	if err := m.Emit(wanted, due); err != nil {
		t.Fatal(err)
	}
	if got := collect(2); !slices.Equal(got, []engine.BinderEvent{{Type: engine.BinderWanted, Key: 2001}, {Type: engine.BinderDue, Key: 2002}}) {
		t.Errorf("%+v", got)
	}
	// What was lost is found out.
	if err := m.Emit(clienttest.Event{Type: uint32(client.EventLost), Code: 9}); err != nil {
		t.Fatal(err)
	}
	if got := collect(2); !slices.Equal(got, []engine.BinderEvent{{Type: engine.BinderWanted, Key: 1}, {Type: engine.BinderDue, Key: 2}}) {
		t.Errorf("after a loss: %+v", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.BinderEvents(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := m.Emit(clienttest.Event{Type: uint32(client.EventExec), ID: client.None}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := s.BinderEvents(ctx); !errors.Is(err, engine.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}

// The module activates by itself: nobody else may.
func TestGatedInstance(t *testing.T) {
	m, s := gated(t)
	in := branch(t, s)
	for _, err := range []error{in.Activate(), in.Park(0), in.Settle()} {
		if !errors.Is(err, errGateActivates) {
			t.Errorf("%v", err)
		}
	}
	m.mu.Lock()
	m.active = in.id
	m.mu.Unlock()
	if in.Dormant() {
		t.Error("the active instance is called dormant")
	}
	before := len(m.Calls())
	if err := in.Kill(); err != nil {
		t.Fatal(err)
	}
	// The last two: what was active before is gone, so nothing is.
	if got, want := m.Calls()[before:], []string{"List", "Activate", "Discard", "Activate", "Activate"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v: it must not become active again meanwhile", got, want)
	}
	if _, err := adopt(t, newModule()).Routes(); !errors.Is(err, engine.ErrNotGated) {
		t.Errorf("routes without a gate: %v", err)
	}
}
