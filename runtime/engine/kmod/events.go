package kmod

import (
	"errors"
	"io"
	"os"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
)

// follow reads the session's events until it is closed or over.
func (s *service) follow() {
	defer s.following.Done()
	for {
		events, err := s.session.Events()
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, io.EOF):
			s.end(s.process.exit())
			return
		case err != nil:
			s.target.Log.WithError(err).Error("the kernel module tells nothing any more: crashes go unnoticed")
			return
		}
		for i := range events {
			s.handle(&events[i])
		}
	}
}

func (s *service) handle(e *client.Event) {
	switch e.Type {
	case client.EventCrashed:
		s.crashed(e.ID, exitOf(int(e.Signal), e.Code))
	case client.EventExited:
		s.end(s.process.exit())
	case client.EventExec:
		s.target.Log.WithField("service", s.process.PID).Error("the service has executed another program: all its instances are gone")
		s.end(engine.Exit{Code: -1})
	case client.EventDetached:
		s.end(engine.Exit{Code: -1})
	case client.EventLost:
		s.resync()
		s.redeliver()
	case client.EventBinderWanted, client.EventBinderDue:
		s.deliver(e)
	case client.EventThreadNew, client.EventThreadExit: // the module sees to them
	}
}

// exitOf is how a record ended: by a signal, or by exit_group if that is 0.
func exitOf(signal, code int) engine.Exit {
	if signal != 0 {
		return engine.Exit{Code: -1, Signal: signal}
	}
	return engine.Exit{Code: code}
}

// crashed takes note of the death of record id, which the module has parked.
func (s *service) crashed(id uint32, exit engine.Exit) {
	s.active.CompareAndSwap(id, client.None)
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.instances[id]
	if in == nil || in.dead {
		return
	}
	in.die(exit)
	if s.gated() {
		s.mail.put(engine.BinderEvent{Type: engine.BinderCrash, Instance: in})
	}
}

// end takes note of the death of the process and with it of all instances.
func (s *service) end(exit engine.Exit) {
	s.active.Store(client.None)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = &exit
	}
	for _, in := range s.instances {
		in.die(*s.over)
	}
	s.mail.end()
}

// resync finds out what has crashed from the records themselves.
func (s *service) resync() {
	l, err := s.session.List()
	if err != nil {
		s.target.Log.WithError(err).Error("events of the kernel module were lost and its records cannot be listed")
		return
	}
	for i := range l.Records {
		if r := &l.Records[i]; r.Flags&(client.Crashed|client.Broken) != 0 {
			s.crashed(r.ID, exitOf(int(r.Signal), r.Code))
		}
	}
}
