package broker

import (
	"corsa.dev/corsa/runtime/engine"
)

// died is called by the watcher when an instance's process has ended. That can be before it is the app's: whoever makes it so
// has the app to himself, and replace waits for him.
func (b *Broker) died(a *app, in engine.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spawn(func() { b.replace(a, in) })
}

// replace has the monitor put another instance in the place of one that has died. The callers of the dead one are still
// waiting in the driver: the monitor ends what is left of it, and then their calls fail.
func (b *Broker) replace(a *app, in engine.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.take(b.ctx, a, false) != nil {
		return
	}
	defer b.give(a)
	if a.inst != in {
		return // whoever has ended it has given the app another
	}
	a.lane.quiet()
	if a.lane.now == a {
		a.lane.now = nil
	}
	a.inst, a.copies = nil, nil
	b.mu.Unlock()
	exit := in.Exit()
	rep, err := b.cfg.Monitor.Crashed(b.ctx, a.key, exit, nil)
	if err == nil && rep.Instance != nil {
		err = b.set(a, rep.Instance)
	}
	b.mu.Lock()
	log := b.logApp(a).WithField("exit", exit)
	if err != nil {
		a.refused = err.Error()
		log.WithError(err).Warn("the instance has died, and there is no other")
		return
	}
	log.Info("the instance has died; another takes its place")
}

// gone is called by the watcher when an app's process has ended.
func (b *Broker) gone(a *app) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spawn(func() { b.left(a) })
}
