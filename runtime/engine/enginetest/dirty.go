package enginetest

import (
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// dirtySlack is how many pages a service may write besides those it is told to: stacks, thread data, the libc's.
const dirtySlack = 20

// dirtyPages asserts that images know how many pages were written between them.
func (s *suite) dirtyPages(t *testing.T) {
	p := mustProgram(t, "state", "pages")
	if p.expect(s.engine).fate == refused {
		t.Log("the engine refuses the program, as state/pages asserts")
		return
	}
	sub := s.adopt(t, p, launch{})
	if _, ok := sub.base().Image.(engine.Comparer); !ok {
		t.Skip("images of this engine cannot be compared")
	}
	a := sub.branch(sub.base())
	a.activate()
	id := a.dial(0)
	a.tell(id, "write 100 10")
	a.park()
	first := a.checkpoint()
	dirty(t, "the first checkpoint and the base", first, sub.base(), 110)

	a.activate()
	a.tell(id, "write 7 3")
	a.tell(id, "rewrite") // what they hold already
	a.tell(id, "look")    // at zeroes that nobody wrote
	a.park()
	second := a.checkpoint()
	dirty(t, "the second checkpoint and the first", second, first, 10)
	dirty(t, "the first checkpoint and the second", first, second, 10)
	dirty(t, "the second checkpoint and the base", second, sub.base(), 110)
	dirty(t, "a checkpoint and itself", second, second, 0)

	a.kill()
	a = sub.branch(first, id)
	a.activate()
	a.tell(id, "write 50 0")
	a.park()
	third := a.checkpoint()
	dirty(t, "a checkpoint after a restore and its parent", third, first, 50)
	a.kill()
	for _, img := range []image{first, second, third} {
		img.discard(t)
	}
	if n, err := third.Image.(engine.Comparer).Dirty(sub.base().Image); err == nil {
		t.Errorf("a discarded image differs in %d pages", n)
	}
}

// tell sends a request whose reply is "ok".
func (a *app) tell(id engine.ConnID, request string) {
	a.t.Helper()
	a.wake()
	a.conns[id].send(request)
	if line, err := a.conns[id].receive(patience); err != nil || line != "ok" {
		a.t.Fatalf("%s: reply %q: %v", request, line, err)
	}
}

func dirty(t *testing.T, what string, img, parent image, want int64) {
	t.Helper()
	n, err := img.Image.(engine.Comparer).Dirty(parent.Image)
	if err != nil {
		t.Fatalf("compare %s: %v", what, err)
	}
	t.Logf("%s: %d pages", what, n)
	if n < want || n > want+dirtySlack {
		t.Errorf("%s differ in %d pages, want %d and at most %d more", what, n, want, dirtySlack)
	}
}
