package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate/route"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

const (
	beatEvery  = 250_000_000   // ns between two heartbeats; routes outlast three
	guestLimit = 1_000_000_000 // ns after which a connect() that was led has come to an end, one way or the other
)

// Apps that are led. Package route leads the connect() of an app that has an instance to the instance's own listener. Nobody
// tells the gate: it sees in the router that connections have come, and looks for them in the instance's descriptor table
// before it relies on knowing all of them. It holds a duplicate of each such listener, a door. While the instance
// sleeps it waits on that, as the instance would; and what the instance cannot accept any more, it accepts.

// routing is what the gate needs to lead apps.
type routing struct {
	router *route.Router
	public []*endpoint   // in the router's order
	sites  []*route.Site // of these
	shut   []closing     // ways that have ended; a connect() that was led before may still be on one
	offers map[route.Spare]*offer
	lost   bool // something else stands at a public address
}

// closing is a way that nobody is led any more.
type closing struct {
	doors []door   // of an instance that is gone
	names []string // of its listeners, for apps
	since int64
}

// A door is a duplicate of an instance's own listener.
type door struct {
	ep    *endpoint
	fd    int
	slot  int32 // 0: not watched
	armed bool
}

// openRoutes begins to lead apps, where the policy says so and it is possible. If not, their connections are handed over.
func (g *Gate) openRoutes() {
	if g.path != spec.PathConnect {
		return
	}
	r, err := g.newRouting()
	if err != nil {
		reason := err.Error()
		g.unled.Store(&reason)
		g.log.WithError(err).Info("connections are handed over: connect() cannot be led to the instances")
		return
	}
	g.routing = r
	g.beat()
	go g.hearClaims(r.router)
}

func (g *Gate) newRouting() (*routing, error) {
	if kind := g.cfg.Service.AppKey; kind != spec.AppKeyUID {
		return nil, fmt.Errorf("%w: with app-key=%s an app is not known by its uid", route.ErrUnsupported, kind)
	}
	if g.cfg.RouteID == "" {
		return nil, fmt.Errorf("%w: the engine binds no listeners that apps can reach", route.ErrUnsupported)
	}
	r := &routing{offers: map[route.Spare]*offer{}}
	var names []string
	for _, ep := range g.eps {
		if ep.network != "unix" || len(names) == route.MaxPublic {
			continue
		}
		site, err := route.OpenSite(g.cfg.RouteID, ep.address)
		if err != nil {
			return nil, err
		}
		r.public, r.sites, names = append(r.public, ep), append(r.sites, site), append(names, ep.address)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: the service has no unix sockets", route.ErrUnsupported)
	}
	var err error
	if r.router, err = route.Open(route.Config{ID: g.cfg.RouteID, Public: names}); err != nil {
		return nil, err
	}
	if err := g.forgetWays(r.router); err != nil {
		return nil, errors.Join(err, r.router.Close(), route.Remove(g.cfg.RouteID, ""))
	}
	return r, nil
}

// forgetWays blocks the apps of a former gate whose instances are not taken over, those that it never led included: a known
// app does not begin anew. It takes back what that gate has offered: the instances are gone.
func (g *Gate) forgetWays(r *route.Router) error {
	ways, err := r.Ways()
	if err != nil {
		return err
	}
	for _, key := range g.cfg.Resume {
		if uid, ok := uidOf(key); ok {
			delete(ways, uid)
		}
	}
	for uid, way := range ways {
		if err := r.Block(uid); err != nil {
			return err
		}
		g.removeNames(way)
	}
	for _, key := range g.cfg.Known {
		if uid, ok := uidOf(key); ok {
			if _, err := r.Reserve(uid); err != nil {
				return err
			}
		}
	}
	for id, way := range r.Offers() {
		if r.Withdraw(id) {
			g.removeNames(way)
		}
	}
	return nil
}

// beat has apps led on, as long as the public sockets are what they were.
func (g *Gate) beat() {
	r := g.routing
	g.clock.set(&g.alarms, alarmBeat, g.now()+beatEvery)
	g.emptyShut()
	changed := false
	for i, ep := range r.public {
		if !ep.ours() {
			if !r.lost {
				g.log.WithField("endpoint", ep.address).Warn("something else stands at the public address: connect() is not led to the instances")
			}
			r.lost = true
			r.router.Pause()
			return
		}
		c, err := r.sites[i].Mirror()
		if err != nil && c {
			g.log.WithError(err).WithField("endpoint", ep.address).Info("connections are handed over: connect() is not led to the instances")
		}
		changed = changed || c
	}
	r.lost = false
	if changed {
		for _, a := range g.apps {
			if a.phase == phaseReady {
				g.lead(a)
			}
		}
	}
	g.offerSpares()
	r.router.Beat()
}

// ours reports whether the public name still is that of the gate's socket.
func (ep *endpoint) ours() bool {
	var st unix.Stat_t
	return unix.Lstat(ep.address, &st) == nil && st.Dev == ep.dev && st.Ino == ep.ino
}

func uidOf(key instance.App) (uint32, bool) {
	text, ok := strings.CutPrefix(string(key), "uid:")
	uid, err := strconv.ParseUint(text, 10, 32)
	return uint32(uid), ok && err == nil
}

// lead has a's connections led to its instance, whose phase is ready, from now on.
func (g *Gate) lead(a *app) {
	r := g.routing
	uid, ok := uidOf(a.key)
	if r == nil || !ok {
		return
	}
	before, err := r.router.Way(uid)
	var to []string
	if err == nil {
		to, err = g.openWay(a, uid)
	}
	if err == nil {
		err = r.router.Set(uid, to)
	}
	// What a former gate has led it to.
	before = slices.DeleteFunc(before, func(name string) bool { return slices.Contains(a.names, name) })
	if len(before) > 0 {
		r.shut = append(r.shut, closing{names: before, since: g.now()})
	}
	if err != nil {
		g.unlead(a)
		err = errors.Join(err, r.router.Block(uid)) // it may never have been led
		reason := err.Error()
		a.counters.unled.Store(&reason)
		if !errors.Is(err, route.ErrUnsupported) && !errors.Is(err, engine.ErrGone) {
			g.logApp(a).WithError(err).Error("cannot lead the app's connections; they are handed over")
		}
		return
	}
	a.led, a.withheld, a.used, a.guests, a.usedAt = true, false, 0, true, g.now()
	a.counters.led.Store(true)
	a.counters.unled.Store(nil)
	g.attend(a)
}

// openWay gives the listeners of a's instance to the app, and opens doors.
func (g *Gate) openWay(a *app, uid uint32) ([]string, error) {
	in, ok := a.inst.(engine.Reachable)
	if !ok || a.proxied != "" {
		return nil, fmt.Errorf("%w: its connections cannot be direct", route.ErrUnsupported)
	}
	own, to := in.Addresses(), make([]string, len(g.routing.public))
	led := false
	for i, ep := range g.routing.public {
		if site := g.routing.sites[i]; site.Admits(uid) {
			if err := site.Grant(own[ep.index].Address, uid); err != nil {
				return nil, err
			}
			to[i], led = own[ep.index].Address, true
		}
	}
	if !led {
		return nil, fmt.Errorf("%w: the public socket's permissions do not say that this user may connect", route.ErrUnsupported)
	}
	if len(a.doors) == 0 { // else it is the same instance
		var err error
		if a.doors, err = g.doorsOf(a.inst); err == nil {
			err = g.watchDoors(a)
		}
		if err != nil {
			return nil, err
		}
	}
	return g.names(a, to)
}

// names gives a's listeners names for the app, unless they have some.
func (g *Gate) names(a *app, listeners []string) ([]string, error) {
	if a.names == nil {
		a.names = make([]string, len(listeners))
	}
	to := make([]string, len(listeners))
	for i, l := range listeners {
		if l != "" && a.names[i] == "" {
			name, err := g.routing.sites[i].Name(l)
			if err != nil {
				return nil, err
			}
			a.names[i] = name
		}
		if l != "" {
			to[i] = a.names[i]
		}
	}
	return to, nil
}

// doorsOf duplicates the listeners of an instance.
func (g *Gate) doorsOf(in engine.Instance) (doors []door, err error) {
	h, ok := in.(engine.SocketHolder)
	if !ok {
		return nil, fmt.Errorf("%w: the engine does not show sockets", route.ErrUnsupported)
	}
	list, err := h.ListenerSockets()
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		fd, err := h.DuplicateSocket(s)
		if err != nil {
			for _, d := range doors {
				_ = unix.Close(d.fd)
			}
			return nil, err
		}
		doors = append(doors, door{ep: g.eps[s.Listener], fd: fd})
	}
	return doors, nil
}

func (g *Gate) watchDoors(a *app) error {
	for i := range a.doors {
		d := &a.doors[i]
		var err error
		if d.slot, err = g.watch(d.fd, unix.EPOLLIN|unix.EPOLLONESHOT, entry{kind: slotDoor, app: a, ep: d.ep}); err != nil {
			return fmt.Errorf("watch a listener of the instance: %w", err)
		}
		d.armed = true
	}
	return nil
}

// withhold has a's connections come to the public socket while somebody has the instance who may end it, and with it the name of
// its listener. lead or unlead ends that.
func (g *Gate) withhold(a *app) {
	if !a.led {
		return
	}
	uid, _ := uidOf(a.key)
	if err := g.routing.router.Block(uid); err != nil {
		g.logApp(a).WithError(err).Error("cannot stop leading the app's connections")
	}
	a.withheld, a.guests = true, true
}

// unlead has a's connections come to the public socket. Unless the phase is ready, the instance is gone, and those that it
// has not accepted are taken in.
func (g *Gate) unlead(a *app) {
	uid, ok := uidOf(a.key)
	if g.routing == nil || !ok || !a.led && len(a.doors) == 0 {
		return
	}
	if err := g.routing.router.Block(uid); err != nil {
		g.logApp(a).WithError(err).Error("cannot stop leading the app's connections")
	}
	a.led, a.withheld, a.guests = false, false, false
	a.counters.led.Store(false)
	old := closing{names: a.names, since: g.now()}
	doors := a.doors
	a.doors, a.names = nil, nil
	for _, d := range doors {
		g.unwatch(d.fd, d.slot)
		if a.phase == phaseReady { // it accepts what waits
			_ = unix.Close(d.fd)
			continue
		}
		g.takeIn(&d)
		old.doors = append(old.doors, d)
	}
	g.routing.shut = append(g.routing.shut, old)
}

// takeIn accepts what waits at the listener of an instance that is gone.
func (g *Gate) takeIn(d *door) {
	for pollNow(d.fd, unix.POLLIN)&unix.POLLIN != 0 {
		fd, _, err := unix.Accept4(d.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		// The gate itself may have dialled the instance in its last moments.
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil || int(cred.Pid) == os.Getpid() {
			_ = unix.Close(fd)
			continue
		}
		g.greet(d.ep, fd)
	}
}

// emptyShut takes in who was on the way to an instance that is gone.
func (g *Gate) emptyShut() {
	shut := g.routing.shut
	g.routing.shut = nil
	for _, old := range shut {
		if g.now() < old.since+beatEvery {
			g.routing.shut = append(g.routing.shut, old)
			continue
		}
		g.removeNames(old.names)
		for _, d := range old.doors {
			g.takeIn(&d)
			_ = unix.Close(d.fd)
		}
	}
}

func (g *Gate) removeNames(names []string) {
	for _, name := range names {
		if name == "" {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.log.WithError(err).Warn("cannot remove the name of a listener")
		}
	}
}

// attend has the loop told when somebody connects to a's instance, which sleeps.
func (g *Gate) attend(a *app) {
	if a.phase != phaseReady || !a.inst.Dormant() {
		return
	}
	for i := range a.doors {
		if d := &a.doors[i]; !d.armed {
			g.rewatch(d.fd, d.slot, unix.EPOLLIN|unix.EPOLLONESHOT)
			d.armed = true
		}
	}
}

// knockedAt wakes a's instance: it has a connection to accept.
func (g *Gate) knockedAt(a *app, ep *endpoint) {
	for i := range a.doors {
		if a.doors[i].ep == ep {
			a.doors[i].armed = false
		}
	}
	if a.phase == phaseReady && a.inst.Dormant() {
		a.guests = true
		g.rouse(a)
	}
}

// meet takes note of the connections that have come to a's instance past the gate.
func (g *Gate) meet(a *app) {
	if !a.led || a.inst == nil {
		return
	}
	uid, _ := uidOf(a.key)
	if n, err := g.routing.router.Used(uid); err != nil || n != a.used {
		a.used, a.usedAt, a.guests = n, g.now(), true
	}
	if !a.guests {
		return
	}
	g.discover(a)
	if g.now() > a.usedAt+guestLimit && !a.waitedFor() {
		a.guests = false
	}
}

// waitedFor reports whether somebody waits to be accepted by a's instance.
func (a *app) waitedFor() bool {
	for i := range a.doors {
		if pollNow(a.doors[i].fd, unix.POLLIN)&unix.POLLIN != 0 {
			return true
		}
	}
	return false
}

// closeRoutes gives up what openRoutes and lead have got. Apps are led on until the heartbeat runs out: by then there may be
// another gate.
func (g *Gate) closeRoutes() {
	if g.routing == nil {
		return
	}
	g.closeOffers()
	var doors []door
	for _, old := range g.routing.shut {
		g.removeNames(old.names)
		doors = append(doors, old.doors...)
	}
	for _, a := range g.apps {
		doors = append(doors, a.doors...)
		a.doors = nil
	}
	for _, d := range doors {
		_ = unix.Close(d.fd)
	}
	if err := g.routing.router.Close(); err != nil {
		g.log.WithError(err).Error("cannot close the router")
	}
}
