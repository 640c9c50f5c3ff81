package fork

import (
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine/fdplan"
)

// plan is what an image's descriptors are.
type plan struct{ fdplan.Plan }

type (
	planFD   = fdplan.FD
	listener = fdplan.Listener
)

const fdEpoll = fdplan.Epoll

// virtual lists the descriptors of the plan.
func (p *plan) virtual() []int { return p.Virtual() }

// ordersSignals reports whether something that the process holds may send it signals while it is dormant. Its threads are then
// all parked, so that none can take them.
func (p *plan) ordersSignals() bool {
	for i := range p.FDs {
		if p.FDs[i].Flags&unix.O_ASYNC != 0 {
			return true
		}
	}
	return false
}
