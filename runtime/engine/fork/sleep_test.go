package fork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// helpers is what the evaluator executes to get threads that sleep until they are given something to do.
const helpers = `
import signal, threading
class Helper(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.todo, self.done, self.jobs = threading.Semaphore(0), threading.Semaphore(0), 0
        self.start()
    def run(self):
        while True:
            self.todo.acquire()
            self.jobs += 1
            self.done.release()
def work():
    for h in pool: h.todo.release()
    for h in pool: h.done.acquire()
    return sum(h.jobs for h in pool)
pool = [Helper() for _ in range(6)]
taken = []
signal.signal(signal.SIGUSR1, lambda *_: taken.append(1))
`

// withHelpers starts an instance with six threads that sleep.
func withHelpers(t *testing.T) *evaluated {
	t.Helper()
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "exec(%q, globals())", helpers)
	return e
}

// asleep is how many threads of a dormant instance were left asleep.
func (e *evaluated) asleep() int {
	n := 0
	for i := range e.in.tracee.threads {
		if e.in.tracee.threads[i].place == placeAsleep {
			n++
		}
	}
	return n
}

// rest parks the instance when its helpers have come to rest.
func (e *evaluated) rest() {
	e.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		e.park()
		if e.asleep() == 6 {
			return
		}
		if time.Now().After(end) {
			e.t.Fatalf("%d of 6 helpers were left asleep", e.asleep())
		}
		e.activate()
		time.Sleep(time.Millisecond)
	}
}

// switches is how often the threads other than the leader have gone to sleep.
func (e *evaluated) switches() string {
	e.t.Helper()
	var all strings.Builder
	for i := range e.in.tracee.threads {
		tid := e.in.tracee.threads[i].tid
		if tid == e.in.PID() {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", e.in.PID(), tid))
		if err != nil {
			e.t.Fatal(err)
		}
		fmt.Fprintln(&all, tid, field(b, "voluntary_ctxt_switches"))
	}
	return all.String()
}

// Threads that sleep until their own process wakes them are not woken by turns that have nothing for them, and work when one has;
// also those of an instance that is restored from a checkpoint for which they had to be stopped.
func TestHelpersSleepOn(t *testing.T) {
	for name, allowed := range map[string]int64{"descriptors kept": looksAllowed(), "none kept": 0} {
		t.Run(name, func(t *testing.T) {
			was, kept := looksAllowed, looks.Load()
			looksAllowed = func() int64 { return allowed }
			defer func() { looksAllowed = was }()
			e := withHelpers(t)
			e.must("6", "work()")
			e.rest()
			before := e.switches()
			for i := range 100 {
				e.activate()
				e.must(fmt.Sprint(i*i), "%d*%d", i, i)
				e.park()
			}
			if now := e.switches(); now != before {
				t.Errorf("helpers ran although there was nothing to do: switches\n%sthen, and now\n%s", before, now)
			}
			if n := looks.Load() - kept; n > allowed || allowed > 0 && n == 0 {
				t.Errorf("%d descriptors are kept", n)
			}
			e.activate()
			e.must("12", "work()")
			e.rest()
			c, err := e.in.s.CheckpointEarly(t.Context(), e.in, e.conns, nil)
			if err != nil {
				t.Fatal(err)
			}
			if e.asleep() != 0 {
				t.Errorf("%d threads have no frame in the checkpoint", e.asleep())
			}
			e.activate()
			e.must("18", "work()")
			restored := branchEvaluator(t, e.in.s, c.Image, 1)
			restored.must("18", "work()")
			restored.rest()
			restored.activate()
			restored.must("24", "work()")
			if err := restored.in.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := e.in.Kill(); err != nil {
				t.Fatal(err)
			}
			if n := looks.Load() - kept; n != 0 {
				t.Errorf("%d descriptors are kept for instances that have ended", n)
			}
		})
	}
}

// An instance that is halted and goes on leaves its helpers asleep without looking at each, has them work when there is
// something to do, and none of them runs while it is halted.
func TestHelpersOfHalted(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e := withHelpers(t)
	e.must("6", "work()")
	e.rest()
	jobs, spared := 6, false
	for i := range 60 {
		e.activate()
		if i%4 == 2 { // helpers may still be on their way to sleep when they are halted
			jobs += 6
			e.must(fmt.Sprint(jobs), "work()")
		} else {
			e.must(fmt.Sprint(i), "%d", i)
		}
		for {
			err := e.in.Halt(time.Second)
			if err == nil {
				break
			}
			if !errors.Is(err, engine.ErrBusy) {
				t.Fatal(err)
			}
		}
		spared = spared || e.in.tracee.others != 0
		if before := e.switches(); i%4 == 2 {
			time.Sleep(time.Millisecond)
			if now := e.switches(); now != before {
				t.Errorf("helpers of a halted instance ran: switches\n%sthen, and now\n%s", before, now)
			}
			if err := e.in.Settle(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !spared {
		t.Error("every helper is looked at each time")
	}
	e.activate()
	e.must(fmt.Sprint(jobs+6), "work()")
}

// An engine that takes over an instance whose helpers were left asleep finds them, with or without their being described.
func TestHelpersTakenOver(t *testing.T) {
	e := withHelpers(t)
	e.rest()
	first := e.in.Handle()
	e.activate()
	e.must("6", "work()")
	c := e.checkpoint(nil)
	for i, handle := range [][]byte{first, c.Instance} {
		e.rest()
		e.in.s.forget(e.in)
		e.in.release()
		in, err := e.in.s.OpenInstance(t.Context(), handle)
		if err != nil {
			t.Fatal(err)
		}
		if e.in = in.(*instance); !e.in.Dormant() || e.asleep() != 0 {
			t.Fatalf("dormant: %v, %d threads asleep", e.in.Dormant(), e.asleep())
		}
		e.activate()
		e.must(fmt.Sprint(12+6*i), "work()")
	}
}

// A signal that is sent to a dormant instance is taken once, and one that was taken before a checkpoint is in it.
func TestSignalToDormant(t *testing.T) {
	e := withHelpers(t)
	for i := range 10 {
		e.rest()
		if err := unix.Kill(e.in.PID(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			time.Sleep(time.Millisecond) // for the thread that takes it
		}
		c, err := e.in.s.CheckpointEarly(t.Context(), e.in, e.conns, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.activate()
		e.must(fmt.Sprint(i+1), "[work(), len(taken)][1]")
		restored := branchEvaluator(t, e.in.s, c.Image, 1)
		restored.must(fmt.Sprint(6*(i+1)), "work()")
		if i%2 == 1 {
			restored.must(fmt.Sprint(i+1), "len(taken)")
		}
		if err := restored.in.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.Image.Discard(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPrivateSleep(t *testing.T) {
	for text, want := range map[string]bool{
		"202 0x557441ce6a00 0x189 0x7 0x0 0x0 0xffffffff 0x7f2099656aa0 0x7f209aca3f16\n": true,
		"202 0x557441ce6a00 0x80 0x7 0x0 0x0 0x0 0x7f2099656aa0 0x7f209aca3f16\n":         true,
		"202 0x557441ce6a00 0x0 0x7 0x0 0x0 0x0 0x7f2099656aa0 0x7f209aca3f16\n":          false, // others may wake it
		"202 0x557441ce6a00 0x189 0x7 0x7f20 0x0 0x0 0x7f2099656aa0 0x7f209aca3f16\n":     false, // a timeout
		"202 0x557441ce6a00 0x86 0x7 0x0 0x0 0x0 0x7f2099656aa0 0x7f209aca3f16\n":         false, // FUTEX_LOCK_PI
		"202 0x557441ce6a00 0x18b 0x7 0x0 0x557441 0x0 0x7f2099656aa0 0x7f209aca3f16\n":   false, // FUTEX_WAIT_REQUEUE_PI
		"232 0x5 0x80 0x7 0x0 0x0 0xffffffff 0x7f2099656aa0 0x7f209aca3f16\n":             false,
		"running\n":                          false,
		"-1 0x7f2099656aa0 0x7f209aca3f16\n": false,
		"":                                   false,
	} {
		var v [9]uint64
		got := parseCall([]byte(text), &v)
		if got {
			var w sleepWait
			if w, got = privateSleep(&v); got && w != (sleepWait{0x557441ce6a00, 7}) {
				t.Errorf("%q: %+v", text, w)
			}
		}
		if got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
