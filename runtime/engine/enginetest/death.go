package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// The seed of a run is logged and fixed, so that a failure can be tried again; the instants of death vary all the same.
const deathSeed = 20

// victim is a started helper. Its journal is complete when it is dead.
type victim struct {
	cmd     *exec.Cmd
	output  bytes.Buffer
	journal []byte
	seen    chan string   // the journal line by line, as long as somebody listens
	read    chan struct{} // closed when the journal has been read to its end
}

func startVictim(t *testing.T, o order) *victim {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env, err := o.marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// The name of the top-level test that called Run, by which the helper comes back to Run.
	top, _, _ := strings.Cut(t.Name(), "/")
	v := &victim{seen: make(chan string, 1<<16), read: make(chan struct{})}
	v.cmd = exec.Command(self, "-test.run=^"+top+"$", "-test.count=1")
	v.cmd.Env = append(os.Environ(), env)
	v.cmd.ExtraFiles = []*os.File{w}
	v.cmd.Stdout, v.cmd.Stderr = &v.output, &v.output
	err = v.cmd.Start()
	_ = w.Close() // the helper has its own
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(v.read)
		defer func() { _ = r.Close() }()
		defer close(v.seen)
		buf := make([]byte, 1<<16)
		for {
			n, err := r.Read(buf)
			for line := range strings.Lines(string(buf[:n])) {
				select {
				case v.seen <- line:
				default: // nobody waits for a line that late
				}
			}
			v.journal = append(v.journal, buf[:n]...)
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
				return
			}
		}
	}()
	return v
}

// await waits until the helper has written op; false: it died before.
func (v *victim) await(op string) bool {
	for line := range v.seen {
		if strings.Contains(line, `"Op":"`+op+`"`) {
			return true
		}
	}
	return false
}

// kill ends the helper and fails the test if it had ended by itself.
func (v *victim) kill(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	err := v.cmd.Wait()
	// An instance must not hold the journal's pipe open: the engine's descriptors are no business of the service.
	select {
	case <-v.read:
	case <-time.After(patience):
		t.Fatal("something that survived the engine holds its descriptors open")
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the engine's process failed by itself: %v\n%s", err, v.output.String())
	}
}

// deathAdopting kills the engine while it adopts a service. The service answers, or is parked; it never crashes, and
// what was journaled can be recovered.
func (s *suite) deathAdopting(t *testing.T) {
	p := mustProgram(t, "state", "blocked")
	rng := rand.New(rand.NewPCG(deathSeed, 0))
	span := s.adoptionTime(t, p)
	var answered, parked, recovered int
	for i := range s.opts.Deaths {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			pr := s.start(t, p, launch{})
			c := pr.dial(t, 0)
			c.mutate(1000)
			c.close()
			pr.settle(t)
			o := order{Program: p.name, PID: pr.pid(), Listeners: pr.addrs, Dir: pr.engineDir(t), Seed: uint64(i)}
			v := startVictim(t, o)
			v.await(opBegin)
			time.Sleep(time.Duration(rng.Int64N(int64(span) * 5 / 4)))
			v.kill(t)
			pr.leftAlone(t, pr.pid())
			b := book{Records: make(map[int]*record)}
			state, _, _, err := b.apply(v.journal)
			switch {
			case err != nil:
				t.Fatal(err)
			case state != nil:
				recovered++
				s.takeOver(t, pr, o, state)
			case pr.answers(t):
				answered++
			default:
				parked++
			}
		})
	}
	t.Logf("adoption takes about %v; killed in it: %d answered, %d were parked, %d had been adopted and were recovered",
		span, answered, parked, recovered)
}

// adoptionTime measures one undisturbed adoption, for the choice of instants only.
func (s *suite) adoptionTime(t *testing.T, p program) time.Duration {
	t.Helper()
	pr := s.start(t, p, launch{})
	v := startVictim(t, order{Program: p.name, PID: pr.pid(), Listeners: pr.addrs, Dir: pr.engineDir(t)})
	v.await(opBegin)
	begun := time.Now()
	ok := v.await(opService)
	span := time.Since(begun)
	v.kill(t)
	if !ok {
		t.Fatal("the adoption was never journaled")
	}
	return span
}

// leftAlone waits until no thread of pid is stopped or traced any more, as the kernel arranges when a tracer dies.
func (pr *process) leftAlone(t *testing.T, pid int) {
	t.Helper()
	if !eventually(func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			return false
		}
		for _, status := range tasks {
			state := statusField(status, "State")
			if state != "" && (strings.ContainsAny(state[:1], "TtZX") || statusField(status, "TracerPid") != "0") {
				return false
			}
		}
		return true
	}) {
		t.Fatalf("after the death of the engine:\n%s\n%s", describe(pid), pr.stderr)
	}
}

// answers says whether the adopted process itself answers rightly; if it does not, it has to be parked as a whole.
func (pr *process) answers(t *testing.T) bool {
	t.Helper()
	c := pr.dial(t, 0)
	defer c.close()
	c.send("get")
	line, err := c.receive(2 * time.Second)
	if err == nil {
		if line != "1000" {
			t.Fatalf("the service answers %q, want 1000", line)
		}
		c.consistent(1000)
		return true
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the service has hung up: %v\n%s", err, describe(pr.pid()))
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pr.pid()))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("the service is gone\n%s", pr.stderr)
	}
	for _, status := range tasks {
		// Waiting, in whatever way: in the engine's stub, or in the kernel.
		if state := statusField(status, "State"); state == "" || !strings.ContainsAny(state[:1], "SDI") {
			t.Fatalf("the service neither answers nor is parked:\n%s", describe(pr.pid()))
		}
	}
	return false
}

// takeOver recovers an adopted service, tries it and ends it.
func (s *suite) takeOver(t *testing.T, pr *process, o order, state []byte) {
	t.Helper()
	target := pr.target(t)
	target.Dir = o.Dir
	pr.program.declare(t, &target)
	e := s.newEngine(t)
	service, err := e.Recover(context.Background(), target, state)
	if err != nil {
		t.Fatalf("recover: %v\n%s", err, describe(pr.pid()))
	}
	sub := &subject{t: t, process: pr, service: service, dir: o.Dir, sum: 1000, exclusive: engine.IsExclusive(e)}
	t.Cleanup(sub.destroy)
	a := sub.branch(sub.base())
	a.activate()
	id := a.dial(0)
	a.conns[id].consistent(a.sum)
	a.mutate(id, 2)
	a.conns[id].consistent(a.sum)
}

// deathServing kills one engine after the other while it branches, swaps and checkpoints instances of one service.
// The next one takes over from the journal, checks everything and goes on.
func (s *suite) deathServing(name string) func(t *testing.T) {
	return func(t *testing.T) {
		p := mustProgram(t, "state", name)
		if e := p.expect(s.engine); e.fate == refused {
			t.Logf("the engine refuses %s", p.object)
			return
		}
		s.serveToDeath(t, p)
	}
}

func (s *suite) serveToDeath(t *testing.T, p program) {
	sub := s.adopt(t, p, launch{})
	o := order{
		Program: p.name, PID: sub.process.pid(), Listeners: sub.process.addrs, Dir: sub.dir,
		State: sub.service.Handle(), Book: book{Next: 1, Records: make(map[int]*record)},
	}
	if err := sub.service.Close(); err != nil {
		t.Fatal(err)
	}
	sub.service = nil // belongs to the helpers now
	rng := rand.New(rand.NewPCG(deathSeed, 1))
	served := 0
	for i := range s.opts.Deaths {
		o.Seed = uint64(i+1) << 32
		v := startVictim(t, o)
		// Every fourth dies while it recovers, the others while they work.
		at := opReady
		if i%4 == 3 {
			at = opBegin
		}
		if v.await(at) && at == opReady {
			served++
		}
		time.Sleep(time.Duration(rng.Int64N(int64(60 * time.Millisecond))))
		v.kill(t)
		state, _, _, err := o.Book.apply(v.journal)
		if err != nil {
			t.Fatal(err)
		}
		if state != nil {
			o.State = state
		}
		for id, r := range o.Book.Records {
			if !r.Image && !r.Ending {
				t.Logf("death %d: instance %d (process %d) has to live", i, id, r.PID)
				sub.process.leftAlone(t, r.PID)
			}
		}
	}
	target := sub.process.target(t)
	target.Dir = sub.dir
	sub.process.program.declare(t, &target)
	service, err := s.newEngine(t).Recover(context.Background(), target, o.State)
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	sub.service = service
	for id, r := range o.Book.Records {
		s.inspect(t, sub, id, r)
	}
	t.Logf("%d engines were killed, %d of them while they worked; %d instances and images live", s.opts.Deaths, served,
		len(o.Book.Records))
	sub.destroy()
}

// inspect opens what the last helper has left, and checks what it holds.
func (s *suite) inspect(t *testing.T, sub *subject, id int, r *record) {
	t.Helper()
	h := &helper{t: t, sub: sub}
	var a *app
	if r.Image {
		img, err := sub.service.OpenImage(context.Background(), r.Handle)
		if r.Ending && errors.Is(err, engine.ErrGone) {
			return
		}
		if err != nil {
			t.Fatalf("open image %d: %v", id, err)
		}
		a = sub.branch(image{Image: img, sum: r.Sums[0]})
	} else {
		in, err := sub.service.OpenInstance(context.Background(), r.Handle)
		if r.Ending && errors.Is(err, engine.ErrGone) {
			return
		}
		if err != nil {
			t.Fatalf("open instance %d: %v", id, err)
		}
		a = &app{t: t, sub: sub, in: in, conns: make(map[engine.ConnID]*conn), ends: make(engine.Conns)}
	}
	a.activate()
	c := h.hello(a)
	got := a.conns[c].number("get")
	if !slices.Contains(r.Sums, got) {
		t.Fatalf("instance or image %d holds %d, want one of %v", id, got, r.Sums)
	}
	a.conns[c].consistent(got)
	a.kill()
}
