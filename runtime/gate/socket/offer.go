package socket

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/gate/route"
	"corsa.dev/corsa/runtime/instance"
)

// maxOffers is how many spares new apps may claim at a time.
const maxOffers = 2

// An offer is an instance of the base that the next new app gets whose connect() the kernel sees, without anybody being
// asked. It sleeps; what the app sends waits until the gate has heard of the claim.
type offer struct {
	in    engine.Instance
	way   []string
	doors []door
}

// offerSpares sees to it that there are offers, if everybody may connect to the public sockets.
func (g *Gate) offerSpares() {
	r := g.routing
	m, ok := g.cfg.Monitor.(gate.SparingMonitor)
	allowed := ok && !slices.ContainsFunc(r.sites, func(s *route.Site) bool { return !s.AdmitsAll() })
	r.router.AllowClaims(allowed)
	for id, o := range r.offers {
		if pollNow(o.in.PIDFD(), unix.POLLIN) != 0 && r.router.Withdraw(id) {
			delete(r.offers, id)
			g.dropOffer(m, o)
		}
	}
	for allowed && len(r.offers) < maxOffers {
		in := m.TakeSpare()
		if in == nil {
			return
		}
		o := &offer{in: in}
		id, err := g.offer(o)
		if err != nil {
			g.log.WithError(err).Debug("a spare instance cannot be offered")
			g.dropOffer(m, o)
			return
		}
		r.offers[id] = o
	}
}

// offer lets the next new app have o.
func (g *Gate) offer(o *offer) (route.Spare, error) {
	in, ok := o.in.(engine.Reachable)
	if !ok {
		return 0, route.ErrUnsupported
	}
	own := in.Addresses()
	for i, ep := range g.routing.public {
		site, listener := g.routing.sites[i], own[ep.index].Address
		if err := site.Expose(listener); err != nil {
			return 0, err
		}
		name, err := site.Name(listener)
		if err != nil {
			return 0, err
		}
		o.way = append(o.way, name)
	}
	var err error
	if o.doors, err = g.doorsOf(o.in); err != nil {
		return 0, err
	}
	return g.routing.router.Offer(o.way)
}

// dropOffer ends an instance that nobody has claimed.
func (g *Gate) dropOffer(m gate.SparingMonitor, o *offer) {
	g.removeNames(o.way)
	for _, d := range o.doors {
		_ = unix.Close(d.fd)
	}
	if err := m.ReturnSpare(o.in); err != nil {
		g.log.WithError(err).Warn("cannot end a spare instance")
	}
}

// hearClaims passes claims on to the loop until the router is closed.
func (g *Gate) hearClaims(r *route.Router) {
	for c := range r.Claims() {
		g.post(func() { g.claimed(c) })
	}
}

// claimed gives the spare to the app that the kernel has led to it.
func (g *Gate) claimed(c route.Claim) {
	r := g.routing
	o, a := r.offers[c.Spare], g.lookUp(instance.App("uid:"+strconv.FormatUint(uint64(c.UID), 10)))
	delete(r.offers, c.Spare)
	switch {
	case o == nil: // a former gate has offered it, and its instance is gone
		if err := r.router.Block(c.UID); err != nil {
			g.logApp(a).WithError(err).Error("cannot stop leading the app's connections")
		}
		g.removeNames(c.To)
		r.router.Acknowledge(c)
		if a.promised {
			a.promised = false
			g.load(a)
		}
		return
	case a.phase != phaseEmpty && !a.promised:
		g.logApp(a).Error("an app that has an instance has claimed a spare; its connections to that are reset")
		g.dropOffer(g.cfg.Monitor.(gate.SparingMonitor), o)
		r.router.Acknowledge(c)
		if a.phase == phaseReady {
			g.lead(a)
		}
		return
	}
	a.promised = false
	g.occupy(a)
	g.background(func(ctx context.Context) func() {
		err := g.cfg.Monitor.(gate.SparingMonitor).GiveSpare(ctx, a.key, o.in)
		return func() {
			g.moveIn(a, o, err)
			r.router.Acknowledge(c)
		}
	})
}

// moveIn begins to serve a with the spare that it has claimed. If it cannot have that, err says why; its connections are taken
// in then, and go to another instance.
func (g *Gate) moveIn(a *app, o *offer, err error) {
	a.doors, a.names = o.doors, o.way
	if err == nil {
		if err = g.watchDoors(a); err == nil {
			g.employ(a, o.in)
			g.offerSpares()
			return
		}
	}
	if g.ctx.Err() == nil {
		g.logApp(a).WithError(err).Warn("the app cannot have the spare instance that it has claimed")
	}
	g.unlead(a)
	g.load(a)
}

// promisedTo reserves a, which has no instance, with the router. It is true if the app has just claimed a spare: it will have
// that as soon as the loop hears of the claim.
func (g *Gate) promisedTo(a *app) bool {
	uid, ok := uidOf(a.key)
	if g.routing == nil || !ok {
		return false
	}
	way, err := g.routing.router.Reserve(uid)
	if err == nil && way == nil {
		return false
	}
	for _, o := range g.routing.offers {
		if err == nil && slices.Equal(o.way, way) {
			a.promised = true
			return true
		}
	}
	if err = errors.Join(err, g.routing.router.Block(uid)); err != nil {
		g.logApp(a).WithError(err).Error("cannot stop leading the app's connections")
	}
	return false
}

// closeOffers takes back what has not been claimed.
func (g *Gate) closeOffers() {
	for id, o := range g.routing.offers {
		if g.routing.router.Withdraw(id) {
			g.dropOffer(g.cfg.Monitor.(gate.SparingMonitor), o)
			continue
		}
		for _, d := range o.doors {
			_ = unix.Close(d.fd)
		}
	}
	g.routing.offers = nil
}
