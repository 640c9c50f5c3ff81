// Package brokertest has the smallest monitor with which a broker can work, for tests.
package brokertest

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

// Monitor keeps one instance and the newest checkpoint of each app. It implements gate.Monitor.
type Monitor struct {
	mu       sync.Mutex
	service  engine.Service
	byApp    map[instance.App]*counted
	images   map[instance.App]engine.Image
	crashes  int
	captures int
	failed   error
	refusal  error
	left     []instance.App
	active   gauge
}

var _ gate.Monitor = (*Monitor)(nil)

// NewMonitor returns a Monitor that has no service yet.
func NewMonitor() *Monitor {
	return &Monitor{byApp: map[instance.App]*counted{}, images: map[instance.App]engine.Image{}}
}

// SetService says what instances are branched from.
func (m *Monitor) SetService(s engine.Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.service = s
}

// Refuse has no instance given to anybody from now on, for that reason; nil: again to everybody.
func (m *Monitor) Refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusal = err
}

// Put makes in an app's instance, and img, unless it is nil, the newest checkpoint.
func (m *Monitor) Put(key instance.App, in engine.Instance, img engine.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byApp[key] = m.active.of(in)
	if img != nil {
		m.images[key] = img
	}
}

// Of returns the app's instance and newest checkpoint, nil if there is none.
func (m *Monitor) Of(key instance.App) (engine.Instance, engine.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.byApp[key]; in != nil {
		return in, m.images[key]
	}
	return nil, m.images[key]
}

// MostActive returns how many instances have been active at once, at most. One that has died counts until the monitor is told.
func (m *Monitor) MostActive() int { return m.active.most() }

// Counts are what has happened until now.
type Counts struct {
	Crashes, Captures, Left int
	Failed                  error // of the last checkpoint
}

// Counts returns them.
func (m *Monitor) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Counts{m.crashes, m.captures, len(m.left), m.failed}
}

// KillInstance kills the process of the app's instance, if it has one.
func (m *Monitor) KillInstance(key instance.App) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.byApp[key]; in != nil {
		_ = unix.Kill(in.PID(), unix.SIGKILL) // it may have died meanwhile
	}
}

func (m *Monitor) branch(ctx context.Context, key instance.App) (engine.Instance, error) {
	img := m.images[key]
	if img == nil {
		img = m.service.Base()
	}
	in, _, err := m.service.Branch(ctx, img, nil)
	if err != nil {
		return nil, err
	}
	c := m.active.of(in)
	m.byApp[key] = c
	return c, nil
}

// Instance implements gate.Monitor.
func (m *Monitor) Instance(ctx context.Context, key instance.App) (engine.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refusal != nil {
		return nil, m.refusal
	}
	if in := m.byApp[key]; in != nil {
		return in, nil
	}
	return m.branch(ctx, key)
}

// Checkpoint implements gate.Monitor.
func (m *Monitor) Checkpoint(ctx context.Context, key instance.App, _ string, conns engine.Conns) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	img, _, err := m.service.Checkpoint(ctx, m.byApp[key].Instance, conns)
	m.failed = err
	if err != nil {
		return err
	}
	m.captures++
	m.images[key] = img
	return nil
}

// Crashed implements gate.Monitor.
func (m *Monitor) Crashed(ctx context.Context, key instance.App, _ engine.Exit, _ []engine.ConnID) (gate.Replacement, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashes++
	if err := m.end(key); err != nil {
		return gate.Replacement{}, err
	}
	if m.refusal != nil {
		return gate.Replacement{}, m.refusal
	}
	in, err := m.branch(ctx, key)
	return gate.Replacement{Instance: in}, err
}

// end ends what is left of the app's instance.
func (m *Monitor) end(key instance.App) error {
	in := m.byApp[key]
	delete(m.byApp, key)
	if in == nil {
		return nil
	}
	if err := in.Kill(); err != nil && !errors.Is(err, engine.ErrGone) {
		return err
	}
	return nil
}

// Left implements gate.Monitor.
func (m *Monitor) Left(_ context.Context, key instance.App) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = append(m.left, key)
	return m.end(key)
}

// Capture takes a checkpoint of the app's instance, as corsa checkpoint does.
func (m *Monitor) Capture(ctx context.Context, g gate.Gate, key instance.App) error {
	return g.Hold(ctx, key, func(ctx context.Context, held gate.Held) (gate.Replacement, error) {
		return gate.Replacement{}, m.Checkpoint(ctx, key, "manual", held.Conns)
	})
}

// Restore replaces the app's instance by its newest checkpoint, as corsa restore does.
func (m *Monitor) Restore(ctx context.Context, g gate.Gate, key instance.App) error {
	return g.Hold(ctx, key, func(ctx context.Context, _ gate.Held) (gate.Replacement, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := m.end(key); err != nil {
			return gate.Replacement{}, err
		}
		in, err := m.branch(ctx, key)
		return gate.Replacement{Instance: in}, err
	})
}
