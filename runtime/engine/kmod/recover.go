package kmod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// serviceHandle is what Recover needs.
type serviceHandle struct {
	Process process         `json:"process"`
	Nonce   uint64          `json:"nonce,string"`
	Base    json.RawMessage `json:"base"`
}

// Handle implements engine.Service.
func (s *service) Handle() json.RawMessage {
	return mustJSON(serviceHandle{s.process, s.nonce, s.base.Handle()})
}

// Recover implements engine.Engine: it joins the session that the dead engine had.
func (e kmodEngine) Recover(_ context.Context, t engine.Target, state json.RawMessage) (engine.Service, error) {
	var h serviceHandle
	if err := json.Unmarshal(state, &h); err != nil {
		return nil, fmt.Errorf("service handle: %w", err)
	}
	p, err := h.Process.reopen()
	if err != nil {
		return nil, err
	}
	s, err := e.join(t, p, h.Nonce)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("recover process %d: %w", t.PID, translate(t.PID, err))
	}
	img, err := s.openImage(h.Base)
	if err != nil {
		s.following.Done()
		return nil, errors.Join(fmt.Errorf("base: %w", err), s.Close())
	}
	s.base = img
	s.base.base = true
	go s.follow()
	return s, nil
}

// errNoSession says that the module does not know the process any more.
var errNoSession = errors.New("the kernel module holds no session of it: it was detached, or the module was loaded anew")

func (e kmodEngine) join(t engine.Target, p process, nonce uint64) (*service, error) {
	d, err := e.open()
	if err != nil {
		return nil, err
	}
	session, found, err := d.Attach(p.pidfd, true)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	if !found.Joined {
		return nil, errors.Join(engine.ErrGone, errNoSession, session.Detach(), session.Close())
	}
	s := newService(t, p, session)
	s.nonce = nonce
	l, err := session.List()
	if err == nil {
		s.active.Store(l.Active)
		if l.Held { // the engine died while it looked at a dormant instance
			s.active.Store(client.None)
			err = session.Activate(client.None, 0, 0)
		}
	}
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	return s, nil
}

// find returns record id, if it is of this adoption.
func (s *service) find(id uint32) (*client.Record, error) {
	l, err := s.session.List()
	if err != nil {
		return nil, translate(s.process.PID, err)
	}
	r := l.Find(id)
	if r == nil || r.Cookie != s.nonce {
		return nil, fmt.Errorf("record %d of process %d: %w", id, s.process.PID, engine.ErrGone)
	}
	return r, nil
}

// OpenImage implements engine.Service.
func (s *service) OpenImage(_ context.Context, handle json.RawMessage) (engine.Image, error) {
	m, err := s.openImage(handle)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[m.id] = m
	return m, nil
}

func (s *service) openImage(handle json.RawMessage) (*image, error) {
	var h imageHandle
	if err := json.Unmarshal(handle, &h); err != nil {
		return nil, fmt.Errorf("image handle: %w", err)
	}
	r, err := s.find(h.ID)
	if err != nil {
		return nil, err
	}
	if r.Flags&client.Image == 0 {
		return nil, fmt.Errorf("record %d of process %d is no image", h.ID, s.process.PID)
	}
	return &image{s: s, id: h.ID, plan: h.Plan}, nil
}

// OpenInstance implements engine.Service. One that has crashed while there was no engine is freed.
func (s *service) OpenInstance(_ context.Context, handle json.RawMessage) (engine.Instance, error) {
	var h instanceHandle
	if err := json.Unmarshal(handle, &h); err != nil {
		return nil, fmt.Errorf("instance handle: %w", err)
	}
	r, err := s.find(h.ID)
	if err != nil {
		return nil, err
	}
	in := &instance{s: s, id: h.ID, listeners: h.Listeners, tcp: h.TCP, died: -1}
	if r.Flags&(client.Crashed|client.Broken) != 0 {
		return nil, errors.Join(in.isGone(), in.free())
	}
	if err := in.inheritNetns(); err != nil {
		return nil, err
	}
	if err := s.lookAfter(in); err != nil {
		return nil, err
	}
	// A crash since the first look was told when nobody was there to be told.
	if r, err = s.find(h.ID); err != nil {
		s.mu.Lock()
		delete(s.instances, in.id)
		s.mu.Unlock()
		in.release() // the record lives on, if it is there
		return nil, err
	}
	if r.Flags&(client.Crashed|client.Broken) != 0 {
		s.crashed(h.ID, exitOf(int(r.Signal), r.Code))
	}
	return in, nil
}

// inheritNetns finds the engine's network namespace through a TCP listener of the instance.
func (in *instance) inheritNetns() error {
	for _, fd := range in.tcp {
		sock, err := in.s.session.GetFD(in.id, fd)
		if errors.Is(err, unix.EBADF) {
			continue // the service has closed it
		}
		if err != nil {
			return translate(in.PID(), err)
		}
		defer unix.Close(sock)
		ino, err := fdplan.InodeOf(sock)
		if err != nil {
			return err
		}
		for _, l := range in.listeners {
			if l.Network == "tcp" && l.Inode == ino {
				return in.s.net.Inherit(sock)
			}
		}
	}
	return nil
}

// Sweep implements engine.Sweeper: it frees records that a dead engine had made and nobody knows of.
func (s *service) Sweep() error {
	l, err := s.session.List()
	if err != nil {
		return translate(s.process.PID, err)
	}
	var errs error
	for i := range l.Records {
		r := &l.Records[i]
		if r.ID == original || r.ID == s.base.id || s.knows(r.ID) {
			continue
		}
		s.target.Log.WithField("record", r.ID).Info("freeing a record that the last monitor had left unfinished")
		in := instance{s: s, id: r.ID, died: -1}
		errs = errors.Join(errs, in.free())
	}
	return errs
}

func (s *service) knows(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[id] != nil || s.images[id] != nil
}
