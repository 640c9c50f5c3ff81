package kmod

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// readTable plans the descriptors of the process, all of whose threads are parked as the record that is captured.
func (s *service) readTable(listeners map[uint64]int, conns engine.Conns) (*fdplan.Plan, error) {
	c := fdplan.Capturer{
		PID: s.process.PID, PIDFD: s.process.pidfd, Listeners: listeners, Declared: s.declared(listeners), Conns: conns, Shared: s.target.Shared,
	}
	p, err := c.Run()
	if err != nil {
		return nil, err
	}
	if err := privateOnly(s.process.PID, p); err != nil {
		return nil, err
	}
	if err := noSharedMemory(s.process.PID); err != nil {
		return nil, err
	}
	// The module gives every copy an open file description of its own for these.
	p.FDs = slices.DeleteFunc(p.FDs, func(f fdplan.FD) bool { return f.Kind == fdplan.File })
	return p, nil
}

// declared are the addresses by which listeners are known at adoption. An instance's are known by their inodes.
func (s *service) declared(listeners map[uint64]int) []engine.Address {
	if listeners != nil {
		return nil
	}
	return s.target.Listeners
}

// closing takes everything in the plan out of a table: an image must not hold sockets open.
func closing(p *fdplan.Plan) []client.FDOp {
	ops := make([]client.FDOp, len(p.FDs))
	for i := range p.FDs {
		ops[i] = client.CloseFD(p.FDs[i].FD)
	}
	return ops
}

// installing puts what was made anew at the numbers of the plan. Epoll sets come last: all of them before any is
// filled, as they can watch each other.
func installing(p *fdplan.Plan, made map[int]int) ([]client.FDOp, error) {
	var ops, sets, entries []client.FDOp
	for i := range p.FDs {
		f := &p.FDs[i]
		cloexec := f.Flags&unix.O_CLOEXEC != 0
		switch {
		case f.Kind == fdplan.Epoll && f.DupOf == 0:
			sets = append(sets, client.EpollNew(f.FD, cloexec))
			for _, w := range f.Watches {
				entries = append(entries, client.EpollAdd(f.FD, w.FD, w.Events, w.Data))
			}
		case f.Kind == fdplan.Epoll:
			sets = append(sets, client.Dup(f.FD, f.DupOf-1, cloexec))
		case f.DupOf != 0:
			ops = append(ops, client.Dup(f.FD, f.DupOf-1, cloexec))
		default:
			fd, ok := made[f.FD]
			if !ok {
				return nil, fmt.Errorf("fd %d (%s): it was not made", f.FD, f.Kind)
			}
			ops = append(ops, client.Install(f.FD, fd, cloexec))
		}
	}
	return slices.Concat(ops, sets, entries), nil
}
