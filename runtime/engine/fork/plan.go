package fork

import "corsa.dev/corsa/runtime/engine/fdplan"

// plan is what an image's descriptors are.
type plan struct{ fdplan.Plan }

type (
	planFD     = fdplan.FD
	fdKind     = fdplan.Kind
	epollWatch = fdplan.Watch
	sockOption = fdplan.Option
	listener   = fdplan.Listener
)

const (
	fdListen = fdplan.Listen
	fdConn   = fdplan.Conn
	fdEpoll  = fdplan.Epoll
	fdEvent  = fdplan.Event
	fdTimer  = fdplan.Timer
	fdSignal = fdplan.Signal
	fdFile   = fdplan.File
	fdPipe   = fdplan.Pipe
	fdPair   = fdplan.Pair
	fdClosed = fdplan.Closed
)

// virtual lists the descriptors of the plan.
func (p *plan) virtual() []int { return p.Virtual() }
