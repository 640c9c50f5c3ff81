package service

import (
	"testing"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// takeSpare takes a spare for the gate.
func takeSpare(t *testing.T, m *Monitor) engine.Instance {
	t.Helper()
	var in engine.Instance
	eventually(t, "there is no spare for the gate", func() bool {
		in = m.TakeSpare()
		return in != nil
	})
	return in
}

func TestSparesForTheGate(t *testing.T) {
	m, e, _ := newSparingMonitor(t, 1)
	in := takeSpare(t, m)
	if len(m.ledger.apps()) != 0 {
		t.Error("it is on record before it is given")
	}
	if err := m.GiveSpare(t.Context(), "uid:1", in); err != nil {
		t.Fatal(err)
	}
	if again, err := m.Instance(t.Context(), "uid:1"); err != nil || again != in {
		t.Errorf("the app has %v, %v, want its spare", again, err)
	}
	sameAsReplayed(t, m)

	second := takeSpare(t, m)
	if err := m.GiveSpare(t.Context(), "uid:1", second); err == nil {
		t.Error("an app has got a second instance")
	}
	if err := m.ReturnSpare(takeSpare(t, m)); err != nil {
		t.Error(err)
	}
	eventually(t, "spares that nobody has are left", func() bool { return e.living() == 1+m.spares.count().Base })
	sameAsReplayed(t, m)
}

func TestNoSpareForAnAppWithCheckpoints(t *testing.T) {
	m, _, g := newSparingMonitor(t, 1)
	const app = instance.App("uid:1")
	enter(t, m, g, app)
	if err := m.Checkpoint(t.Context(), app, "every", nil); err != nil {
		t.Fatal(err)
	}
	h := m.holding(app)
	h.mu.Lock()
	h.inst = nil
	h.mu.Unlock()
	if err := m.GiveSpare(t.Context(), app, takeSpare(t, m)); err == nil {
		t.Error("an app that has a checkpoint begins anew")
	}
}

func TestLeads(t *testing.T) {
	for _, c := range []struct {
		change func(*spec.Service)
		want   bool
	}{
		{func(*spec.Service) {}, false},
		{func(s *spec.Service) { s.Path = spec.PathConnect }, true},
		{func(s *spec.Service) { s.Path = spec.PathHandover }, false},
		{func(s *spec.Service) { s.OnCrash.Mode = spec.CrashStop }, true},
		{func(s *spec.Service) { s.Path, s.AppKey = spec.PathConnect, spec.AppKeyPID }, false},
	} {
		s := spec.Default()
		c.change(s)
		if got := leads(s); got != c.want {
			t.Errorf("%+v: %v, want %v", s, got, c.want)
		}
	}
}
