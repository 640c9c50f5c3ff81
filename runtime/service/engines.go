package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/engine/kmod"
	"corsa.dev/corsa/spec"
)

const (
	adoptTries = 5 // connections of the warm-up may take a moment to go
	adoptPause = 100 * time.Millisecond
)

// choice is an engine that a service can be adopted with.
type choice struct {
	engine.Engine
	// available says why it cannot be used on this host; nil: it always can.
	available func() error
	// brokered says that its Binder services are called through a broker in the monitor.
	brokered bool
}

// engines are what auto tries, in this order.
var engines = []choice{{kmod.New(), kmod.Available, false}, {fork.New(), nil, true}}

// errParallel says that instances of different apps cannot run together with an engine.
var errParallel = errors.New("it runs one instance at a time: all are the same process; way out: concurrency strict, or engine fork")

// pickEngine returns the engine of that name, available or not.
func pickEngine(name string) (engine.Engine, error) {
	for _, c := range engines {
		if name == c.Name() {
			return c.Engine, nil
		}
	}
	return nil, fmt.Errorf("%w: there is no engine %q", ErrInvalid, name)
}

// candidates are the engines with which svc may be adopted on this host, the preferred one first. An engine that was
// asked for by name and cannot be had is an error; auto passes it over.
func (m *Monitor) candidates(svc *spec.Service) ([]engine.Engine, error) {
	if svc.Gate == spec.GateBinder {
		c, err := binderEngine(svc)
		if err != nil {
			return nil, err
		}
		return []engine.Engine{c.Engine}, nil
	}
	var list []engine.Engine
	for _, c := range engines {
		if svc.Engine != "auto" && svc.Engine != c.Name() {
			continue
		}
		var err error
		if c.available != nil {
			err = c.available()
		}
		if err == nil && svc.Concurrency == spec.Parallel && engine.IsExclusive(c.Engine) {
			err = fmt.Errorf("engine %s: concurrency %s: %w", c.Name(), svc.Concurrency, errParallel)
		}
		switch {
		case err == nil:
			list = append(list, c.Engine)
		case svc.Engine == c.Name():
			return nil, err
		default:
			m.log.WithError(err).Debug("engine passed over")
		}
	}
	if list == nil {
		return nil, fmt.Errorf("%w: there is no engine %q", ErrInvalid, svc.Engine)
	}
	return list, nil
}

// adoptWith adopts t with the first of the engines that does not refuse it, and returns that one. The error is the last
// engine's.
func (m *Monitor) adoptWith(ctx context.Context, list []engine.Engine, t engine.Target) (chosen engine.Engine, err error) {
	for i, e := range list {
		for try := 1; ; try++ {
			m.eng, err = e.Adopt(ctx, t)
			if err == nil {
				return e, nil
			}
			if try == adoptTries || m.svc.Warm == "" || !errors.Is(err, engine.ErrRefused) {
				break
			}
			time.Sleep(adoptPause)
		}
		if i == len(list)-1 || !errors.Is(err, engine.ErrRefused) {
			return nil, err
		}
		m.log.WithError(err).WithField("engine", e.Name()).Info("the engine refuses the service; trying the next one")
	}
	return nil, err
}
