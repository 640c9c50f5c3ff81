package enginetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// How long a dormant instance is watched, and how long a reply is awaited that must not come.
const watch = 150 * time.Millisecond

// dormant asserts that a parked instance neither runs nor answers, and does both when it is activated.
func (s *suite) dormant(t *testing.T) {
	a, id := s.serving(t, "ticker")
	address := int64(a.conns[id].number("where"))
	for range 2 {
		a.verify(id)
		a.park()
		time.Sleep(watch / 10) // for the threads to go where they are held
		ticks, switches := a.peek(address), a.switches()
		a.conns[id].send("get")
		if line, err := a.conns[id].receive(watch); err == nil {
			t.Fatalf("a dormant instance answers %q", line)
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if now := a.peek(address); now != ticks {
			t.Errorf("the counter of a dormant instance went from %d to %d", ticks, now)
		}
		s.quiet(a, switches)
		if err := a.in.Park(patience); err != nil || !a.in.Dormant() {
			t.Errorf("parking a dormant instance: %v", err)
		}
		a.activate()
		if line, err := a.conns[id].receive(patience); err != nil || line != fmt.Sprint(a.sum) {
			t.Fatalf("reply %q to the request that waited: %v", line, err)
		}
		if !eventually(func() bool { return a.peek(address) > ticks }) {
			t.Error("the counter stands still in an active instance")
		}
		a.activate()
		a.mutate(id, 1)
	}
	// A connection that was made while the instance was dormant is accepted when it wakes.
	a.park()
	fd, err := a.in.Dial(0)
	if err != nil {
		t.Fatalf("dial a dormant instance: %v", err)
	}
	c := adopted(t, fd, a.in.PID())
	c.send("get")
	a.activate()
	if line, err := c.receive(patience); err != nil || line != fmt.Sprint(a.sum) {
		t.Fatalf("reply %q: %v", line, err)
	}
}

// peek reads a word of the instance's memory.
func (a *app) peek(address int64) uint64 {
	a.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", a.in.PID()))
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var word [8]byte
	if _, err := f.ReadAt(word[:], address); err != nil {
		a.t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(word[:])
}

// quiet asserts that no thread of a dormant instance was scheduled since before.
func (s *suite) quiet(a *app, before map[string]scheduled) {
	a.t.Helper()
	for thread, now := range a.switches() {
		then := before[thread]
		slept, preempted := now.slept-then.slept, now.preempted-then.preempted
		if s.opts.WakesOnce && slept <= 1 {
			continue // on a busy machine it may be preempted any number of times until it sleeps
		}
		if slept > 0 || preempted > 0 {
			a.t.Errorf("a thread of a dormant instance (%s) went to sleep %d times and was preempted %d times", thread, slept, preempted)
		}
	}
}

// scheduled is how often a thread has left the CPU.
type scheduled struct{ slept, preempted int }

// switches tells that for each thread of the instance, by its path in /proc.
func (a *app) switches() map[string]scheduled {
	a.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", a.in.PID()))
	if err != nil || len(tasks) == 0 {
		a.t.Fatalf("threads of process %d: %v", a.in.PID(), err)
	}
	m := map[string]scheduled{}
	for _, task := range tasks {
		slept, err1 := strconv.Atoi(statusField(task, "voluntary_ctxt_switches"))
		preempted, err2 := strconv.Atoi(statusField(task, "nonvoluntary_ctxt_switches"))
		if err := errors.Join(err1, err2); err != nil {
			a.t.Fatalf("%s: %v", task, err)
		}
		m[task] = scheduled{slept, preempted}
	}
	return m
}

// manyCycles parks and activates over and over: every request is answered once, and no call notices.
func (s *suite) manyCycles(name string) func(t *testing.T) {
	return func(t *testing.T) {
		sub := s.adopt(t, mustProgram(t, "state", name), launch{})
		a, b := sub.branch(sub.base()), sub.branch(sub.base())
		a.activate()
		ca := a.dial(0)
		a.park()
		b.activate()
		cb := b.dial(0)
		b.park()
		for i := range s.opts.ParkCycles {
			a.activate()
			a.mutate(ca, 1)
			a.park()
			if i%4 == 0 { // strict alternation of two apps
				b.activate()
				b.mutate(cb, 2)
				b.park()
			}
		}
		a.activate()
		a.verify(ca)
		b.activate()
		b.verify(cb)
	}
}

// earlyPark parks right after activating, before the threads have run, and while a request is on its way: whatever
// the service had done by then, each request is answered exactly once.
func (s *suite) earlyPark(t *testing.T) {
	a, id := s.serving(t, "blocked")
	for i := range s.opts.ParkCycles {
		a.conns[id].send("mutate 1")
		for range i % 3 {
			a.activate()
			if err := a.in.Park(0); err != nil {
				t.Fatal(err)
			}
		}
		a.activate()
		if line, err := a.conns[id].receive(patience); err != nil || line != "ok" {
			t.Fatalf("cycle %d: reply %q: %v\n%s", i, line, err, describe(a.in.PID()))
		}
		a.sum++
	}
	a.verify(id)
}

// jobsUnderWay lets two apps of a service with a pool of threads take turns that end while its threads are still at work, with
// checkpoints in between: none of them works on in a dormant instance, and no job is lost or done twice, in an instance or in
// what is restored of it.
func (s *suite) jobsUnderWay(t *testing.T) {
	sub := s.adopt(t, mustProgram(t, "state", "pool"), launch{})
	apps := [2]*app{sub.branch(sub.base()), sub.branch(sub.base())}
	var ids [2]engine.ConnID
	var steps [2]int64
	for i, a := range apps {
		a.activate()
		ids[i] = a.dial(0)
		steps[i] = int64(a.conns[ids[i]].number("where"))
		a.park()
	}
	for i := range 10 * s.opts.ParkCycles {
		a, id := apps[i%2], ids[i%2]
		a.activate()
		a.mutate(id, uint64(1+i%9))
		if i%2000 == 1 {
			a.verify(id)
		}
		a.park()
		if i%10 == 5 {
			before := a.peek(steps[i%2])
			time.Sleep(watch / 100)
			if now := a.peek(steps[i%2]); now != before {
				t.Fatalf("turn %d: threads of a dormant instance have done %d jobs", i, now-before)
			}
		}
		if i%1000 != 500 {
			continue
		}
		img := a.checkpoint()
		restored := sub.branch(img, id)
		restored.activate()
		restored.verify(id)
		restored.mutate(id, 3)
		restored.verify(id)
		restored.kill()
		img.discard(t)
	}
	for i, a := range apps {
		a.activate()
		a.verify(ids[i])
	}
}

// busy asserts that a thread that never waits makes Park give up, and that limit 0 parks it all the same.
func (s *suite) busy(t *testing.T) {
	a, id := s.serving(t, "spin")
	for range 20 {
		a.verify(id) // the thread computes: one that has not run yet since it was activated may be parked at once
		if err := a.in.Park(5 * time.Millisecond); !errors.Is(err, engine.ErrBusy) {
			t.Fatalf("parking a thread that computes: %v, want ErrBusy", err)
		}
		if a.in.Dormant() {
			t.Fatal("an instance that could not be parked calls itself dormant")
		}
		a.mutate(id, 1)
		a.park()
		time.Sleep(watch / 10)
		switches := a.switches()
		time.Sleep(watch / 10)
		s.quiet(a, switches)
		a.activate()
	}
	a.verify(id)
}

// allocations asserts that the transaction path does not allocate.
func (s *suite) allocations(t *testing.T) {
	a, id := s.serving(t, "threads32")
	var failed error
	n := testing.AllocsPerRun(100, func() {
		if err := a.in.Park(patience); err != nil {
			failed = err
		}
		if !a.in.Dormant() {
			failed = errors.New("not dormant")
		}
		if err := a.in.Activate(); err != nil {
			failed = err
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	if n != 0 {
		t.Errorf("parking and activating allocates %v times", n)
	}
	a.verify(id)
}
