package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/gate/socket"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

const (
	listenLimit = 30 * time.Second // for the service to listen
	warmLimit   = 5 * time.Minute  // for the warm-up command
	quietLimit  = 10 * time.Second // for the service to come to rest
)

// adopt virtualises the service that runs in the sandbox.
func (m *Monitor) adopt(ctx context.Context, output *os.File) error {
	l := m.ref.layout()
	var err error
	if m.output, err = collect(l.output(), output, m.log); err != nil {
		return err
	}
	state, err := m.box.State()
	if err != nil {
		return err
	}
	svc, declared, err := spec.FromAnnotations(state.Annotations)
	if err != nil {
		return err
	}
	if !declared {
		return fmt.Errorf("container %q declares no service: its bundle has no annotation %s*", m.ref.ID, spec.Prefix)
	}
	m.svc, m.outside = svc, Outside(m.box, svc)
	brokered, err := Brokered(svc)
	if err != nil {
		return err
	}
	if brokered {
		if err := m.startBrokered(); err != nil {
			return err
		}
	}
	pid, err := m.box.ServicePID(ctx)
	if err != nil {
		return m.explain(err)
	}
	if svc.MemoryBudget > 0 {
		if _, err := usageOf(pid, os.Getpid()); err != nil {
			return fmt.Errorf("memory-budget: %w", err)
		}
	}
	list, err := m.candidates(svc)
	if err != nil {
		return err
	}
	if err := m.prepare(ctx, pid); err != nil {
		return m.explain(err)
	}
	listeners := make([]engine.Address, len(svc.Endpoints))
	for i, e := range svc.Endpoints {
		listeners[i] = engine.Address(e)
	}
	eng, err := m.adoptWith(ctx, list, m.target(pid, listeners))
	if err != nil {
		return m.explain(err)
	}
	brokerState, err := m.brokerState()
	if err != nil {
		return errors.Join(err, m.eng.Destroy())
	}
	m.rec = &record{
		Version: recordVersion, Service: *svc, PID: pid, Listeners: listeners, Engine: eng.Name(), State: m.eng.Handle(),
		Created: time.Now(), Output: output != nil, Broker: brokerState,
	}
	if m.ledger, err = createLedger(l.journal(), svc, m.ref.ID, m.eng.Base().Handle()); err != nil {
		return errors.Join(err, m.eng.Destroy())
	}
	if err := l.save(m.rec); err != nil {
		return errors.Join(err, m.eng.Destroy())
	}
	return nil
}

func (m *Monitor) explain(err error) error {
	// What it printed last may still be in the pipe.
	time.Sleep(20 * time.Millisecond)
	return m.output.explain(err)
}

func (m *Monitor) target(pid int, listeners []engine.Address) engine.Target {
	t := engine.Target{
		PID: pid, Shared: m.svc.Shared, Private: m.svc.Private, Files: m.ref.layout().files(), Listeners: listeners, Broker: m.brokerTarget, Dir: m.ref.layout().sockets(), Log: m.log,
	}
	t.Dirs, t.HugePages = m.sites(), m.svc.HugePages
	if m.inDriver() {
		t.Binder = binderTarget(m.svc)
	}
	return t
}

// prepare waits until the service can be adopted: it can be called, is warm, and rests.
func (m *Monitor) prepare(ctx context.Context, pid int) error {
	if err := within(ctx, listenLimit, func(ctx context.Context) error {
		switch {
		case m.broker != nil:
			return m.awaitRegistered(ctx, pid)
		case m.inDriver():
			return awaitPublished(ctx, pid, &m.svc.Binder)
		}
		return awaitListening(ctx, pid, m.svc.Endpoints)
	}); err != nil {
		return err
	}
	if m.svc.Warm != "" {
		if err := within(ctx, warmLimit, m.warm); err != nil {
			return err
		}
	}
	err := within(ctx, quietLimit, func(ctx context.Context) error { return awaitQuiet(ctx, pid) })
	if err == nil && m.broker != nil {
		err = m.seal(pid)
	}
	return err
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// warm runs the warm-up command in the sandbox.
func (m *Monitor) warm(ctx context.Context) error {
	process, err := m.box.DefaultProcess()
	if err != nil {
		return err
	}
	process.Args = []string{"/bin/sh", "-c", m.svc.Warm}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := m.box.Exec(ctx, sandbox.ExecOptions{Process: process, Stdio: sandbox.Stdio{Out: w, Err: w}})
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("warm-up command: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		_ = p.Signal(unix.SIGKILL) // gone already
		_ = r.Close()              // what it started may keep the pipe open
	})()
	text, _ := io.ReadAll(io.LimitReader(r, 4096))
	_, _ = io.Copy(io.Discard, r) // ends with the command, or with ctx
	code, err := p.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("warm-up command %q: %w", m.svc.Warm, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("warm-up command: %w", err)
	case code != 0:
		return fmt.Errorf("warm-up command %q: exit code %d; it printed: %s", m.svc.Warm, code, text)
	}
	return nil
}

// newGate makes the gate; bound is called once apps reach it.
func (m *Monitor) newGate(bound func()) (gate.Gate, error) {
	if m.svc.Gate == spec.GateBinder {
		return m.newBinderGate(bound)
	}
	return m.newSocketGate(bound)
}

func (m *Monitor) newSocketGate(bound func()) (gate.Gate, error) {
	originals := make([]string, len(m.svc.Endpoints))
	for i, e := range m.svc.Endpoints {
		if e.Network == "unix" {
			originals[i] = filepath.Join(procPath(m.rec.PID, "root"), e.Address)
		}
	}
	var known []instance.App
	if m.svc.AppKey == spec.AppKeyPID {
		for _, a := range m.ledger.apps() {
			if !m.departed(a.App) {
				known = append(known, a.App)
			}
		}
	}
	return socket.New(socket.Config{
		Service: m.outside, Monitor: m, Log: m.log, Originals: originals, Bound: bound, After: m.lastConnection(), Apps: known,
		Resume: m.liveApps(), Known: m.knownApps(), RouteID: m.routeID(),
	})
}

// liveApps are those whose instances live on from an earlier monitor and may have connections that it did not move.
func (m *Monitor) liveApps() []instance.App {
	if !m.recovered || !m.direct() {
		return nil
	}
	var live []instance.App
	for _, h := range m.allHoldings() {
		if h.inst != nil {
			live = append(live, h.app)
		}
	}
	return live
}

// lastConnection is the highest connection that ever was an app of its own.
func (m *Monitor) lastConnection() engine.ConnID {
	var last uint64
	for _, app := range m.ledger.apps() {
		if v, ok := strings.CutPrefix(string(app.App), "conn:"); ok {
			if n, err := strconv.ParseUint(v, 10, 64); err == nil { // the gate made the name
				last = max(last, n)
			}
		}
	}
	return engine.ConnID(last)
}
