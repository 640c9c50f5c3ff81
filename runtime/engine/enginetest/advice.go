package enginetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// advice asserts that what a service tells the kernel about its memory after the branch is in the next checkpoint, or that
// one says by name that it is not, and that the one after it has it.
func (s *suite) advice(t *testing.T) {
	p := mustProgram(t, "state", "dontfork")
	if mlock := mustProgram(t, "state", "mlock"); p.expect(s.engine).fate == refused || mlock.expect(s.engine).fate == refused {
		t.Log("the engine refuses such a service, as state/dontfork or state/mlock asserts")
		return
	}
	sub := s.adopt(t, p, launch{})
	a := sub.branch(sub.base())
	for _, change := range []string{"mark", "lock"} {
		a.activate()
		id := a.dial(0)
		a.tell(id, change)
		a.mutate(id, 3)
		a.park()
		img, err := a.checkpointOr("memory of process")
		if err != nil {
			a.activate()
			a.verify(id)
			a.park()
			img = a.checkpoint()
		}
		b := sub.branch(img, id)
		b.activate()
		b.verify(id)
		if want := map[string]uint64{"mark": 0, "lock": 64}[change]; b.conns[id].number("locked") != want {
			t.Errorf("%d KiB are locked after %s and a restore, want %d", b.conns[id].number("locked"), change, want)
		}
		b.park()
		b.checkpoint().discard(t)
		b.kill()
		a.activate()
		a.hangUp(id)
		a.park()
	}
}

// checkpointOr captures the instance, or gives the refusal if that names what.
func (a *app) checkpointOr(what string) (image, error) {
	a.t.Helper()
	img, _, err := a.sub.service.Checkpoint(context.Background(), a.in, a.ends)
	if err == nil {
		ends := make(engine.Conns, len(a.ends))
		for inode, id := range a.ends {
			ends[inode] = id
		}
		return image{Image: img, sum: a.sum, conns: ends}, nil
	}
	if !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), what) {
		a.t.Fatalf("checkpoint: %v", err)
	}
	return image{}, err
}
