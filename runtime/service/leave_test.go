package service

import (
	"errors"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

func TestLeftAppIsDiscarded(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	enter(t, m, g, "conn:1")
	if err := m.Checkpoint(t.Context(), "conn:1", "every", nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Left(t.Context(), "conn:1"); err != nil {
		t.Fatal(err)
	}
	if len(e.instances)+len(e.images)+len(m.holdings)+len(m.ledger.apps()) != 0 {
		t.Errorf("%d instances, %d images, %d holdings, %d apps are left", len(e.instances), len(e.images), len(m.holdings), len(m.ledger.apps()))
	}
	if _, err := m.checkpointNow(t.Context(), "conn:1", ""); !errors.Is(err, ErrUnknownApp) {
		t.Errorf("checkpoint: %v", err)
	}
	if err := m.Left(t.Context(), "conn:2"); err != nil { // it closed before it had an instance
		t.Error(err)
	}
	sameAsReplayed(t, m)
}

func TestTaggedCheckpointsOutliveTheirApp(t *testing.T) {
	m, e, g := newTestMonitor(t, nil)
	app := instance.App("conn:1")
	enter(t, m, g, app)
	if _, err := m.checkpointNow(t.Context(), app, "kept"); err != nil {
		t.Fatal(err)
	}
	if err := m.Checkpoint(t.Context(), app, "every", nil); err != nil {
		t.Fatal(err)
	}
	g.leave(app)
	if err := m.Left(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if len(e.instances) != 0 || len(e.images) != 1 {
		t.Errorf("%d instances, %d images", len(e.instances), len(e.images))
	}
	if v := m.viewApps(); len(v) != 1 || v[0].State != "left" || v[0].Checkpoints != 1 {
		t.Errorf("apps: %+v", v)
	}
	if _, err := m.restore(t.Context(), app, "kept"); !errors.Is(err, ErrLeft) {
		t.Errorf("restore: %v", err)
	}
	sameAsReplayed(t, m)
}

// A journal does not grow with every app that comes and goes.
func TestJournalOfManyThatCameAndWent(t *testing.T) {
	m, _, _ := newTestMonitor(t, nil)
	long := strings.Repeat("x", 2000)
	for range 2000 {
		app := instance.App("cgroup:/" + long)
		if _, err := m.Instance(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		if err := m.Left(t.Context(), app); err != nil {
			t.Fatal(err)
		}
	}
	if m.ledger.size > 2*compactAbove {
		t.Errorf("the journal has %d bytes", m.ledger.size)
	}
	sameAsReplayed(t, m)
}

func TestNewMonitorForgetsConnections(t *testing.T) {
	m, e, g := newTestMonitor(t, func(s *spec.Service) { s.AppKey = spec.AppKeyConnection })
	enter(t, m, g, "conn:7")
	enter(t, m, g, "conn:8")
	if _, err := m.checkpointNow(t.Context(), "conn:8", "kept"); err != nil {
		t.Fatal(err)
	}
	for _, a := range m.ledger.apps() {
		if err := m.reopen(t.Context(), a.App); err != nil {
			t.Fatal(err)
		}
	}
	if apps := m.ledger.apps(); len(apps) != 1 || apps[0].App != "conn:8" || len(e.instances) != 0 || len(e.images) != 1 {
		t.Errorf("%d instances, %d images, %+v", len(e.instances), len(e.images), apps)
	}
	if m.lastConnection() != 8 {
		t.Errorf("the last connection is %d", m.lastConnection())
	}
}
