package enginetest

import (
	"testing"
)

const (
	chainLength = 6  // restores in a row, each from a checkpoint of the one before
	fewCycles   = 12 // park and activate
)

// cycle takes one program through everything that can happen to an instance, at least twice each: two apps that
// diverge, checkpoints of a changed and of a restored instance, a chain of restores, and images that are used again.
func (s *suite) cycle(t *testing.T, p program, l launch) {
	sub := s.adopt(t, p, l)
	a, b := sub.branch(sub.base()), sub.branch(sub.base())

	a.activate()
	ca := a.dial(0)
	a.verify(ca)
	a.mutate(ca, 3)
	a.verify(ca)
	a.park()

	b.activate()
	cb := b.dial(0)
	b.verify(cb)
	b.mutate(cb, 500)
	b.verify(cb)
	for i := range p.listen[:p.declared] {
		b.hangUp(b.dial(i))
	}
	b.park()

	first := a.checkpoint()
	a.activate()
	a.verify(ca)
	a.mutate(ca, 40)
	a.verify(ca)
	for range fewCycles {
		a.park()
		a.activate()
		a.mutate(ca, 1)
	}
	a.verify(ca)

	images := []image{first}
	last := first
	for i := range chainLength {
		a.kill()
		a = sub.branch(last, ca)
		a.activate()
		a.verify(ca)
		a.park()
		a.activate()
		a.mutate(ca, uint64(100+i))
		a.verify(ca)
		a.park()
		last = a.checkpoint()
		images = append(images, last)
		a.activate()
		a.mutate(ca, 7) // what the next restore has to undo
		a.verify(ca)
	}
	a.park()

	// Nothing of this has reached the other app, the base or the older images.
	b.activate()
	b.verify(cb)
	b.mutate(cb, 9)
	b.verify(cb)
	b.park()
	for _, img := range []image{sub.base(), first, images[chainLength/2], first} {
		fresh := sub.branch(img)
		fresh.activate()
		id := fresh.dial(0)
		fresh.verify(id)
		fresh.mutate(id, 77)
		fresh.verify(id)
		fresh.kill()
	}

	// Two instances of the same image live side by side.
	x, y := sub.branch(last, ca), sub.branch(last, ca)
	x.activate()
	y.activate()
	x.mutate(ca, 1)
	y.mutate(ca, 2)
	x.verify(ca)
	y.verify(ca)
	x.kill()

	// Images can go in any order, and what was branched from them stays.
	for i := range images {
		images[(i*3+1)%len(images)].discard(t)
	}
	y.verify(ca)
	y.park()
	a.activate()
	a.verify(ca)
	a.park()
	sub.destroy()
}
