package enginetest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// crashes are the ways in which a service dies, with how the engine has to tell it.
var crashes = map[string]engine.Exit{
	"SEGV": {Code: -1, Signal: int(unix.SIGSEGV)},
	"ABRT": {Code: -1, Signal: int(unix.SIGABRT)},
	"BUS":  {Code: -1, Signal: int(unix.SIGBUS)},
	"ILL":  {Code: -1, Signal: int(unix.SIGILL)},
	"FPE":  {Code: -1, Signal: int(unix.SIGFPE)},
	"EXIT": {Code: 3},
}

// crash has one instance of a threaded service die by how: the engine says how it died, the other instance notices
// nothing, and the dead one comes back from its checkpoint under its own connection. Twice.
func (s *suite) crash(how string, want engine.Exit) func(t *testing.T) {
	return func(t *testing.T) {
		sub := s.adopt(t, mustProgram(t, "state", "loop-threads"), launch{})
		a, b := sub.branch(sub.base()), sub.branch(sub.base())
		b.activate()
		cb := b.dial(0)
		b.mutate(cb, 2)
		a.activate()
		ca := a.dial(0)
		for range 2 {
			a.mutate(ca, 30)
			a.park()
			img := a.checkpoint()
			a.activate()
			a.mutate(ca, 4)
			if died(t, a.in, 0) {
				t.Fatal("the pidfd of a live instance is readable")
			}
			a.conns[ca].send("crash " + how)
			if !died(t, a.in, int(patience.Milliseconds())) {
				t.Fatalf("the pidfd of a crashed instance is not readable\n%s", describe(a.in.PID()))
			}
			if got := a.in.Exit(); got != want {
				t.Errorf("exit %+v, want %+v", got, want)
			}
			if err := a.in.Park(patience); !errors.Is(err, engine.ErrGone) {
				t.Errorf("parking a dead instance: %v, want ErrGone", err)
			}
			b.verify(cb)
			b.mutate(cb, 1)
			a.kill()
			a = sub.branch(img, ca)
			a.activate()
			a.verify(ca)
			img.discard(t)
		}
		b.verify(cb)
	}
}

// died says whether the instance's pidfd becomes readable within milliseconds.
func died(t *testing.T, in engine.Instance, milliseconds int) bool {
	t.Helper()
	for {
		p := []unix.PollFd{{Fd: int32(in.PIDFD()), Events: unix.POLLIN}}
		n, err := unix.Poll(p, milliseconds)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1 && p[0].Revents&unix.POLLIN != 0
	}
}
