package enginetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// connections asserts that several connections of one app come back in a restore, each with what the service keeps
// about it; that those which have gone see an end of file; and that a checkpoint is refused if one is not accounted for.
func (s *suite) connections(name string, listener int) func(t *testing.T) {
	return func(t *testing.T) {
		sub := s.adopt(t, mustProgram(t, "state", name), launch{})
		a := sub.branch(sub.base())
		a.activate()
		var ids []engine.ConnID
		count := make(map[engine.ConnID]int)
		for i := range 5 {
			id := a.dial(listener)
			ids = append(ids, id)
			a.add(id, 10*(i+1))
			count[id] += 10 * (i + 1)
		}
		for round := range 3 {
			a.park()
			img := a.checkpoint()
			a.activate()
			for _, id := range ids {
				a.add(id, 1000) // to be undone
			}
			lost, late := ids[round%len(ids)], a.dial(listener)
			a.hangUp(lost)
			keep := make([]engine.ConnID, 0, len(ids))
			for i := range ids { // in another order than they were made
				if id := ids[(i+2)%len(ids)]; id != lost {
					keep = append(keep, id)
				}
			}
			old := a
			old.kill()
			a = sub.branch(img, keep...)
			a.activate()
			if a.conns[late] != nil || a.conns[lost] != nil {
				t.Fatal("a connection came back that was not asked for")
			}
			// The service has noticed the end of the connection that was not kept.
			if !eventually(func() bool { return a.conns[keep[0]].ask("open") == fmt.Sprint(len(keep)) }) {
				t.Fatalf("the service has %s connections open, want %d", a.conns[keep[0]].ask("open"), len(keep))
			}
			for _, id := range keep {
				if got := a.conns[id].number("cget"); got != uint64(count[id]) {
					t.Errorf("round %d: connection %d counts %d, want %d", round, id, got, count[id])
				}
				if via := a.conns[id].number("via"); via != uint64(listener) {
					t.Errorf("round %d: connection %d belongs to listener %d", round, id, via)
				}
			}
			a.mutate(keep[0], 3)
			fresh := a.dial(listener)
			a.add(fresh, 7)
			count[fresh] = 7
			ids = append(keep, fresh)
			a.verify(fresh)
		}
		a.unaccounted(ids)
	}
}

func (a *app) add(id engine.ConnID, n int) {
	a.t.Helper()
	if reply := a.conns[id].ask(fmt.Sprintf("cadd %d", n)); reply != "ok" {
		a.t.Fatalf("cadd: %s", reply)
	}
}

// unaccounted asks for a checkpoint with a connection left out.
func (a *app) unaccounted(ids []engine.ConnID) {
	a.t.Helper()
	a.park()
	ends := make(engine.Conns)
	for inode, id := range a.ends {
		if id != ids[1] {
			ends[inode] = id
		}
	}
	if _, _, err := a.sub.service.Checkpoint(context.Background(), a.in, ends); !errors.Is(err, engine.ErrRefused) {
		a.t.Errorf("checkpoint with an unknown connection: %v, want ErrRefused", err)
	}
	if !a.in.Dormant() {
		a.t.Error("a refused checkpoint has woken the instance")
	}
	a.activate()
	for _, id := range ids {
		a.verify(id)
	}
}
