package fork

import "corsa.dev/corsa/runtime/engine/fdplan"

// plan is what an image's descriptors are.
type plan struct{ fdplan.Plan }

type (
	planFD   = fdplan.FD
	listener = fdplan.Listener
)

const fdEpoll = fdplan.Epoll

// virtual lists the descriptors of the plan.
func (p *plan) virtual() []int { return p.Virtual() }
