package enginetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// scenarios are what does not belong to one kind of state.
func (s *suite) scenarios() map[string]func(t *testing.T) {
	all := map[string]func(t *testing.T){
		"dormant/stands-still":      s.dormant,
		"dormant/cycles-counter":    s.manyCycles("counter"),
		"dormant/cycles-blocked":    s.manyCycles("blocked"),
		"dormant/cycles-fpu":        s.manyCycles("fpu-blocked"),
		"dormant/cycles-spin":       s.manyCycles("fpu-spin"),
		"dormant/early-park":        s.earlyPark,
		"dormant/jobs-under-way":    s.jobsUnderWay,
		"dormant/halted":            s.halted,
		"dormant/busy":              s.busy,
		"dormant/allocations":       s.allocations,
		"connections/epoll":         s.connections("loop-epoll-lt", 1),
		"connections/epoll-et":      s.connections("loop-epoll-et", 0),
		"connections/epoll-oneshot": s.connections("loop-epoll-oneshot", 0),
		"connections/poll":          s.connections("loop-poll", 0),
		"connections/threads":       s.connections("loop-threads", 1),
		"connections/tcp":           s.connections("tcp", 0),
		"sockets/epoll":             s.replaceSocket("loop-epoll-lt"),
		"sockets/epoll-et":          s.replaceSocket("loop-epoll-et"),
		"sockets/epoll-oneshot":     s.replaceSocket("loop-epoll-oneshot"),
		"sockets/poll":              s.replaceSocket("loop-poll"),
		"sockets/select":            s.replaceSocket("loop-select"),
		"sockets/threads":           s.replaceSocket("loop-threads"),
		"sockets/blocked":           s.replaceSocket("blocked"),
		"sockets/refused":           s.refuseSocket,
		"contract/init":             s.init,
		"contract/pidns":            s.namespaced("ids"),
		"contract/pidns-threads":    s.namespaced("loop-threads"),
		"contract/images":           s.images,
		"contract/handles":          s.handles,
		"contract/dirty":            s.dirtyPages,
		"contract/adopt":            s.adoptErrors,
		"contract/reachable":        s.reachable,
		"objects/advice":            s.advice,
		"objects/inotify":           s.inotify,
		"death/adopting":            s.deathAdopting,
		"death/serving":             s.deathServing("blocked"),
		"death/serving-pool":        s.deathServing("pool"),
		"death/serving-files":       s.deathServing("private-append"),
	}
	for how, want := range crashes {
		all["crash/"+how] = s.crash(how, want)
	}
	return all
}

// init runs the cycle on a service that is itself pid 1 of a pid namespace, or asserts the refusal.
func (s *suite) init(t *testing.T) {
	p := mustProgram(t, "state", "ids")
	p.name, p.object, p.engines = initProgram.name, initProgram.object, initProgram.engines
	s.conforms(t, p, launch{pidNamespace: true})
}

// initProgram declares what becomes of a service that is pid 1 of its pid namespace.
var initProgram = program{
	name: "init", object: "pid 1 of a pid namespace", otherwise: expectation{fate: private},
	engines: map[string]expectation{"fork": {refused, "process", "it cannot create siblings"}},
}

// namespaced runs the cycle on a service in a pid namespace whose init is another program, as in most containers.
func (s *suite) namespaced(name string) func(t *testing.T) {
	return func(t *testing.T) {
		s.cycle(t, mustProgram(t, "state", name), launch{pidNamespace: true, init: true})
	}
}

// images asserts what the contract says about images, their memory and their end.
func (s *suite) images(t *testing.T) {
	sub := s.adopt(t, mustProgram(t, "state", "heap128m"), launch{})
	if err := sub.service.Base().Discard(); err == nil {
		t.Error("the base was discarded")
	}
	a := sub.branch(sub.base())
	plausible(t, "a fresh instance", a.in)
	plausible(t, "the base", sub.service.Base())
	a.activate()
	id := a.dial(0)
	fresh, err := a.in.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sub.service.Checkpoint(context.Background(), a.in, a.ends); err == nil {
		t.Error("an active instance was checkpointed")
	}
	a.mutate(id, 5) // writes every page of 128 MiB
	dirty := plausible(t, "a changed instance", a.in)
	if dirty.Unique < fresh.Unique+64<<20 {
		t.Errorf("128 MiB were written, but unique memory went from %d to %d", fresh.Unique, dirty.Unique)
	}
	a.park()
	img := a.checkpoint()
	a.activate()
	if m := plausible(t, "a checkpoint", img.Image); m.Resident < 128<<20 {
		t.Errorf("a checkpoint of 128 MiB has %d resident", m.Resident)
	}
	if m := plausible(t, "an instance after its checkpoint", a.in); m.Unique > 64<<20 {
		t.Errorf("%d are unique to an instance that has changed nothing since its checkpoint", m.Unique)
	}
	img.discard(t)
	if _, _, err := sub.service.Branch(context.Background(), img.Image, nil); err == nil {
		t.Error("a discarded image was branched")
	}
	a.verify(id)
}

func plausible(t *testing.T, what string, of interface {
	Memory() (engine.Memory, error)
},
) engine.Memory {
	t.Helper()
	m, err := of.Memory()
	if err != nil {
		t.Fatalf("memory of %s: %v", what, err)
	}
	if m.Resident <= 0 || m.Unique < 0 || m.Unique > m.Resident || m.Shared != m.Resident-m.Unique {
		t.Errorf("memory of %s: %+v", what, m)
	}
	return m
}

// handles asserts that another engine value can take over what is alive, and that what is dead gives ErrGone.
func (s *suite) handles(t *testing.T) {
	sub := s.adopt(t, mustProgram(t, "state", "blocked"), launch{})
	a, b, dead := sub.branch(sub.base()), sub.branch(sub.base()), sub.branch(sub.base())
	a.activate()
	ca := a.dial(0)
	a.mutate(ca, 6)
	a.park()
	img := a.checkpoint()
	b.activate()
	cb := b.dial(0)
	b.mutate(cb, 1)
	dead.kill()
	gone := a.checkpoint()
	gone.discard(t)

	target := sub.process.target(t)
	target.Dir = sub.dir
	sub.process.program.declare(t, &target)
	state := sub.service.Handle()
	if err := sub.service.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	service, err := s.newEngine(t).Recover(context.Background(), target, state)
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	sub.service = service
	if _, err := service.OpenInstance(context.Background(), dead.in.Handle()); !errors.Is(err, engine.ErrGone) {
		t.Errorf("opening a dead instance: %v, want ErrGone", err)
	}
	if _, err := service.OpenImage(context.Background(), gone.Handle()); !errors.Is(err, engine.ErrGone) {
		t.Errorf("opening a discarded image: %v, want ErrGone", err)
	}
	for _, x := range []*app{a, b} {
		was := x.in.Dormant()
		if x.in, err = service.OpenInstance(context.Background(), x.in.Handle()); err != nil {
			t.Fatalf("open an instance: %v", err)
		}
		if x.in.Dormant() != was {
			t.Fatalf("dormant: %v after recovery, %v before\n%s", x.in.Dormant(), was, describe(x.in.PID()))
		}
	}
	a.activate()
	a.verify(ca) // over the connection that it had
	a.mutate(ca, 1)
	b.verify(cb)
	b.park()
	b.activate()
	b.mutate(cb, 1)
	if img.Image, err = service.OpenImage(context.Background(), img.Handle()); err != nil {
		t.Fatalf("open an image: %v", err)
	}
	for _, from := range []image{img, sub.base()} {
		c := sub.branch(from)
		c.activate()
		id := c.dial(0)
		c.verify(id)
		c.mutate(id, 4)
		c.park()
		next := c.checkpoint()
		c.kill()
		c = sub.branch(next, id)
		c.activate()
		c.verify(id)
		c.kill()
	}
	a.verify(ca)
	b.verify(cb)
}

// adoptErrors asserts that Adopt fails cleanly.
func (s *suite) adoptErrors(t *testing.T) {
	pr := s.start(t, mustProgram(t, "state", "blocked"), launch{})
	before := surface(t, pr.pid())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if service, err := s.newEngine(t).Adopt(ctx, pr.target(t)); !errors.Is(err, context.Canceled) {
		if err == nil {
			(&subject{t: t, process: pr, service: service}).destroy()
		}
		t.Fatalf("adopt with a cancelled context: %v", err)
	}
	pr.unharmed(t, before, 0)

	target := pr.target(t)
	target.Listeners = append(target.Listeners[:1:1], engine.Address{Network: "unix", Address: target.Dir + "/nobody"})
	if service, err := s.newEngine(t).Adopt(context.Background(), target); err == nil {
		(&subject{t: t, process: pr, service: service}).destroy()
		t.Fatal("adopt with a listener that the service does not have succeeded")
	}
	pr.unharmed(t, before, 0)

	target = pr.target(t)
	target.PID = reaped(t)
	if _, err := s.newEngine(t).Adopt(context.Background(), target); err == nil {
		t.Errorf("adopt of process %d, which does not exist, succeeded", target.PID)
	}
}

// reaped returns the pid of a process that is no more.
func reaped(t *testing.T) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
