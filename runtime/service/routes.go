package service

import (
	"context"
	"errors"
	"fmt"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/gate/route"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// leads reports whether apps are to be led to their instances by the kernel.
func leads(svc *spec.Service) bool {
	path, _ := svc.DirectPath()
	return svc.Gate == spec.GateSocket && path == spec.PathConnect && svc.AppKey == spec.AppKeyUID
}

// sites makes the directories in which instances' listeners stand when apps are led there. Without them everything is as it
// would be with path=handover.
func (m *Monitor) sites() []string {
	if !leads(m.svc) {
		return nil
	}
	dirs := make([]string, len(m.outside.Endpoints))
	for i, e := range m.outside.Endpoints {
		if e.Network != "unix" {
			continue
		}
		site, err := route.OpenSite(m.ref.layout().routeID(), e.Address)
		if err != nil {
			m.log.WithError(err).Info("connections are handed over: connect() cannot be led to the instances")
			return nil
		}
		dirs[i] = site.Dir
	}
	return dirs
}

// routeID names the service among all whose apps are led on this host.
func (l layout) routeID() string { return l.cgroupName() }

// routeID is for the gate: "" if the instances' listeners are out of reach.
func (m *Monitor) routeID() string {
	if !leads(m.svc) || m.rec.Engine != fork.New().Name() {
		return ""
	}
	return m.ref.layout().routeID()
}

// knownApps are all apps on record.
func (m *Monitor) knownApps() []instance.App {
	var all []instance.App
	for _, a := range m.ledger.apps() {
		all = append(all, a.App)
	}
	return all
}

var _ gate.SparingMonitor = (*Monitor)(nil)

// TakeSpare implements gate.SparingMonitor.
func (m *Monitor) TakeSpare() engine.Instance {
	x := m.spares.take(nil, instance.Base)
	if x == nil {
		return nil
	}
	m.spares.nudge()
	return x.give(nil).Instance
}

// GiveSpare implements gate.SparingMonitor.
func (m *Monitor) GiveSpare(_ context.Context, app instance.App, in engine.Instance) error {
	h := m.holding(app)
	h.mu.Lock()
	defer h.mu.Unlock()
	err := m.ledger.refusal(app)
	switch head := m.ledger.head(app); {
	case err != nil:
	case h.inst != nil || h.left || head != instance.Base:
		err = fmt.Errorf("app %s is not new: it has an instance or checkpoints", app)
	default:
		err = m.ledger.branched(app, head, in.Handle())
	}
	if err != nil {
		return errors.Join(err, m.spares.retire(in))
	}
	h.inst, h.given = in, true
	m.spares.want(h)
	m.event(Event{Type: EventInstance, App: app, Checkpoint: string(instance.Base), Detail: fmt.Sprintf("pid %d, a spare", in.PID())})
	return nil
}

// ReturnSpare implements gate.SparingMonitor.
func (m *Monitor) ReturnSpare(in engine.Instance) error { return m.spares.retire(in) }

// unroute removes what leads apps to the service's instances, which is nothing if the service never came so far.
// svc is as seen from outside.
func (l layout) unroute(svc *spec.Service) error {
	if !leads(svc) {
		return nil
	}
	errs := []error{route.Remove(l.routeID(), "")}
	for _, e := range svc.Endpoints {
		if e.Network == "unix" {
			errs = append(errs, route.RemoveSite(l.routeID(), e.Address))
		}
	}
	return errors.Join(errs...)
}
