package enginetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// halted asserts that an instance whose parking has only begun stands still, goes on from there or from where the rest has
// brought it, and can be captured then.
func (s *suite) halted(t *testing.T) {
	a, id := s.serving(t, "ticker")
	h, ok := a.in.(engine.Halter)
	if !ok {
		t.Log("the engine parks in one go")
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	address := int64(a.conns[id].number("where"))
	for round := range 12 {
		a.mutate(id, 1)
		if err := h.Halt(patience); err != nil {
			t.Fatal(err)
		}
		if !a.in.Dormant() {
			t.Fatal("a halted instance is not dormant")
		}
		ticks := a.peek(address)
		a.conns[id].send("get")
		if line, err := a.conns[id].receive(watch / 10); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("round %d: a halted instance answers %q, %v", round, line, err)
		}
		if now := a.peek(address); now != ticks {
			t.Errorf("round %d: the counter of a halted instance went from %d to %d", round, ticks, now)
		}
		if round%3 > 0 {
			for range 2 {
				if err := h.Settle(); err != nil {
					t.Fatal(err)
				}
			}
			if now := a.peek(address); now != ticks {
				t.Errorf("round %d: the counter went from %d to %d when the rest was parked", round, ticks, now)
			}
		}
		a.activate()
		if line, err := a.conns[id].receive(patience); err != nil || line != fmt.Sprint(a.sum) {
			t.Fatalf("round %d: reply %q to the request that waited: %v", round, line, err)
		}
		if !eventually(func() bool { return a.peek(address) > ticks }) {
			t.Fatalf("round %d: the counter stands still in an active instance", round)
		}
		if round%3 == 2 {
			if err := errors.Join(h.Halt(patience), h.Settle()); err != nil {
				t.Fatal(err)
			}
			img := a.checkpoint()
			b := a.sub.branch(img, id)
			b.activate()
			b.verify(id)
			b.kill()
			a.activate()
		}
	}
	if err := h.Halt(patience); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(a.in.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Settle(); !errors.Is(err, engine.ErrGone) {
		t.Errorf("the rest of parking an instance that was killed meanwhile: %v", err)
	}
	if !eventually(func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.in.PIDFD()), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	}) {
		t.Error("nobody learns of the death of an instance that was halted")
	}
}
