package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	gatebinder "corsa.dev/corsa/runtime/gate/binder"
	"corsa.dev/corsa/spec"
)

// binderRoot is where a sandbox has its Binder devices.
const binderRoot = "/dev/binderfs"

// binderTarget is what an engine that stands in the driver has to know of the apps.
func binderTarget(svc *spec.Service) *engine.BinderTarget {
	key, err := gatebinder.Key(svc.AppKey)
	if err != nil {
		panic(err) // spec refuses the others
	}
	return &engine.BinderTarget{Key: key}
}

// binderAvailable says why a Binder service cannot be had with the engine on this host.
func (c *choice) binderAvailable(svc *spec.Service) error {
	if c.brokered {
		return brokerAvailable(c.Name(), svc)
	}
	b, ok := c.Engine.(engine.BinderEngine)
	if !ok {
		return fmt.Errorf("engine %s: it cannot stand between a service and its Binder callers", c.Name())
	}
	if svc.OnCrash.Mode == spec.CrashRetry {
		return fmt.Errorf("engine %s: %s=%s: the driver keeps no copy of a transaction; way out: restore, or engine fork",
			c.Name(), spec.KeyOnCrash, svc.OnCrash)
	}
	if svc.Concurrency == spec.Parallel && engine.IsExclusive(c.Engine) {
		return fmt.Errorf("engine %s: concurrency %s: %w", c.Name(), svc.Concurrency, errParallel)
	}
	return b.BinderAvailable()
}

// binderEngine is the engine that a Binder service is served with on this host. It has to be known before the program is
// started, as a broker has to be there first.
func binderEngine(svc *spec.Service) (*choice, error) {
	var errs []error
	for i := range engines {
		c := &engines[i]
		if svc.Engine != "auto" && svc.Engine != c.Name() {
			continue
		}
		err := c.binderAvailable(svc)
		if err == nil && c.available != nil {
			err = c.available()
		}
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("gate %s: %w", spec.GateBinder, errors.Join(errs...))
}

func (m *Monitor) newBinderGate(bound func()) (gate.Gate, error) {
	if m.broker != nil {
		bound() // it has the device already
		return m.broker, nil
	}
	eng, ok := m.eng.(engine.BinderService)
	if !ok {
		return nil, fmt.Errorf("engine %s: %w", m.rec.Engine, engine.ErrNotGated)
	}
	return gatebinder.New(gatebinder.Config{Service: m.svc, Engine: eng, Monitor: m, Log: m.log, Bound: bound})
}

// binderStats are the counters of the Binder gate.
func (m *Monitor) binderStats() (engine.BinderStats, error) {
	eng, ok := m.eng.(engine.BinderService)
	if !ok || !m.inDriver() {
		return engine.BinderStats{}, fmt.Errorf("%w: service %q has no gate in the Binder driver; `corsa apps` has counters of each app", ErrInvalid, m.ref.ID)
	}
	return eng.BinderStats()
}

// inDriver says that the engine holds Binder transactions itself, in the kernel.
func (m *Monitor) inDriver() bool { return m.svc.Gate == spec.GateBinder && m.broker == nil }

// path tells how transactions get to instances.
func (m *Monitor) path() string {
	switch {
	case m.inDriver():
		return "kernel"
	case m.broker != nil:
		return "broker"
	}
	return "proxied"
}

// awaitPublished returns once process pid can be called through Binder: its device has a context manager, and if that is
// ours, services are published. An error is an ErrNotListening that says what is missing.
func awaitPublished(ctx context.Context, pid int, b *spec.Binder) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%w: it has exited", ErrNotListening)
	}
	defer unix.Close(pidfd)
	device := filepath.Join(procPath(pid, "root"), binderRoot, b.Devices[0])
	variant, own := servicemanager.Variant(0), b.Manager == spec.ManagerOwn
	if !own {
		if variant, err = servicemanager.ParseVariant(b.Manager); err != nil {
			return err
		}
	}
	conn, err := binder.Open(device, binder.Options{Protocol: variant.Protocol()})
	if errors.Is(err, fs.ErrNotExist) && dead(pidfd) {
		return fmt.Errorf("%w: it has exited", ErrNotListening)
	}
	if err != nil {
		return err
	}
	published := func() (string, error) { return managed(ctx, conn) }
	if !own {
		client := servicemanager.NewClient(conn, variant)
		published = func() (string, error) { return named(ctx, client, b.Names) }
	}
	return errors.Join(untilPublished(ctx, pid, pidfd, published), conn.Close())
}

// untilPublished asks missing until nothing is missing.
func untilPublished(ctx context.Context, pid, pidfd int, missing func() (string, error)) error {
	tick := time.NewTicker(4 * lookEvery)
	defer tick.Stop()
	for {
		what, err := missing()
		if err == nil && what == "" {
			return nil
		}
		if dead(pidfd) {
			return fmt.Errorf("%w: it has exited", ErrNotListening)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: process %d (%s) %s", ErrNotListening, pid, comm(pid), what)
		}
	}
}

// managed says that the service is not context manager, if so.
func managed(ctx context.Context, conn *binder.Conn) (missing string, err error) {
	err = conn.Ping(ctx)
	if errors.Is(err, binder.ErrDead) || ctx.Err() != nil {
		return "does not become context manager of its Binder device; a service that needs a service manager has " + spec.KeyBinderManager, nil
	}
	return "", statusIsAnswer(err)
}

// statusIsAnswer drops the error of an object that is there and does not know the request.
func statusIsAnswer(err error) error {
	var status binder.Status
	if errors.As(err, &status) {
		return nil
	}
	return err
}

// named says which names are not published, or that none is.
func named(ctx context.Context, client *servicemanager.Client, want []string) (missing string, err error) {
	have, err := client.List(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "is not known to the service manager", nil
		}
		return "", err
	}
	if len(want) == 0 {
		if len(have) == 0 {
			return "adds nothing to the service manager", nil
		}
		return "", nil
	}
	var absent []string
	for _, name := range want {
		if !slices.Contains(have, name) {
			absent = append(absent, name)
		}
	}
	if absent == nil {
		return "", nil
	}
	return "does not add " + strings.Join(absent, ", ") + " to the service manager", nil
}
