package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// inotify asserts that the watches of a branched instance tell of what happens, each instance's own; that a checkpoint is
// refused by name while events wait; and that a watch on a file that has gone since ends as it did with the file.
func (s *suite) inotify(t *testing.T) {
	p := mustProgram(t, "state", "inotify")
	if p.expect(s.engine).fate == refused {
		t.Log("the engine refuses the program, as state/inotify asserts")
		return
	}
	sub := s.adopt(t, p, launch{})
	a := sub.branch(sub.base())
	a.activate()
	id := a.dial(0)
	a.mutate(id, 5)
	a.park()
	img := a.checkpoint()

	b := sub.branch(img, id)
	a.activate()
	a.tell(id, "change file")
	a.park()
	if _, _, err := sub.service.Checkpoint(context.Background(), a.in, a.ends); !errors.Is(err, engine.ErrRefused) ||
		!strings.Contains(err.Error(), "(inotify)") || !strings.Contains(err.Error(), "events wait") {
		t.Errorf("checkpoint with events that wait: %v", err)
	}
	for _, x := range []*app{a, b} { // the file is theirs in common
		x.activate()
		x.events(id, "1 4 file", "100 4 -")
		x.verify(id)
		x.park()
	}
	a.checkpoint().discard(t)

	a.activate()
	a.tell(id, "delete")
	a.tell(id, "change dir")
	a.kill()
	c := sub.branch(img, id)
	c.activate()
	c.events(id, "101 8000 -") // IN_IGNORED
	c.tell(id, "forget")
	c.verify(id)
	c.tell(id, "change dir")
	c.events(id, "1 40000004 -")
	c.park()
	c.checkpoint().discard(t)
}

// events asserts that these come next, and no more.
func (a *app) events(id engine.ConnID, want ...string) {
	a.t.Helper()
	var got []string
	for {
		e := a.conns[id].ask("next")
		if e == "" {
			break
		}
		got = append(got, e)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		a.t.Errorf("events %q, want %q", got, want)
	}
}
