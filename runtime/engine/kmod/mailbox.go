package kmod

import (
	"context"
	"fmt"
	"sync"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
)

// mailbox keeps what the gate has to be told until it asks. The module tells each key once until it is routed, so it stays
// small.
type mailbox struct {
	mu   sync.Mutex
	list []engine.BinderEvent
	over bool
	wake chan struct{} // has room for one
}

func (b *mailbox) put(events ...engine.BinderEvent) {
	b.mu.Lock()
	b.list = append(b.list, events...)
	b.mu.Unlock()
	b.ring()
}

func (b *mailbox) end() {
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
	b.ring()
}

func (b *mailbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// BinderEvents implements engine.BinderService.
func (s *service) BinderEvents(ctx context.Context) ([]engine.BinderEvent, error) {
	b := &s.mail
	for {
		b.mu.Lock()
		list, over := b.list, b.over
		b.list = nil
		b.mu.Unlock()
		switch {
		case len(list) > 0:
			return list, nil
		case over:
			return nil, fmt.Errorf("process %d: %w", s.process.PID, engine.ErrGone)
		}
		select {
		case <-b.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// deliver passes an event of the module on.
func (s *service) deliver(e *client.Event) {
	kind := engine.BinderWanted
	if e.Type == client.EventBinderDue {
		kind = engine.BinderDue
	}
	s.mail.put(engine.BinderEvent{Type: kind, Key: e.Addr})
}

// redeliver finds out what lost events may have said.
func (s *service) redeliver() {
	if !s.gated() {
		return
	}
	routes, err := s.session.Routes()
	if err != nil {
		s.target.Log.WithError(err).Error("events of the kernel module were lost and its routes cannot be listed")
		return
	}
	for _, r := range routes {
		switch {
		case r.Flags&client.RouteWanted != 0:
			s.mail.put(engine.BinderEvent{Type: engine.BinderWanted, Key: r.Key})
		case r.Flags&client.RouteDue != 0:
			s.mail.put(engine.BinderEvent{Type: engine.BinderDue, Key: r.Key})
		}
	}
}
