package kmod

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// instance is an instance record.
type instance struct {
	s         *service
	id        uint32
	listeners []fdplan.Listener
	tcp       []int // numbers of its TCP listeners, by which the namespace is found again

	died int  // an eventfd: readable once the instance is dead
	dead bool // under service.mu
	gone atomic.Bool
	exit engine.Exit // valid once gone is set
}

var (
	_ engine.Instance = (*instance)(nil)
	_ engine.Settler  = (*instance)(nil)
)

// PID implements engine.Instance: it is the same for all.
func (in *instance) PID() int { return in.s.process.PID }

// PIDFD implements engine.Instance.
func (in *instance) PIDFD() int { return in.died }

// Dormant implements engine.Instance.
func (in *instance) Dormant() bool {
	if in.s.gated() {
		l, err := in.s.session.List()
		return err != nil || l.Active != in.id
	}
	return in.s.active.Load() != in.id
}

// Activate implements engine.Instance: one request. What an instance waits for is its own, so threads that sleep in the
// kernel need not be waited for.
func (in *instance) Activate() error {
	s := in.s
	if s.gated() {
		return errGateActivates
	}
	s.stage.Lock()
	defer s.stage.Unlock()
	if s.active.Load() == in.id {
		return nil
	}
	if in.gone.Load() {
		return in.isGone()
	}
	if err := s.session.Activate(in.id, client.Lazy, 0); err != nil {
		return in.explain("activate", err)
	}
	s.active.Store(in.id)
	return nil
}

// Settle implements engine.Settler. Only HOLD waits for every thread, so all of them stop for a moment.
func (in *instance) Settle() error {
	s := in.s
	if s.gated() {
		return errGateActivates
	}
	s.stage.Lock()
	defer s.stage.Unlock()
	if s.active.Load() != in.id {
		return fmt.Errorf("instance %d of process %d is dormant", in.id, in.PID())
	}
	err := s.session.Activate(in.id, client.Hold, 0)
	if err == nil {
		err = s.session.Activate(in.id, client.Lazy, 0)
	}
	if err != nil {
		return in.explain("settle", err)
	}
	return nil
}

// Park implements engine.Instance.
func (in *instance) Park(limit time.Duration) error {
	s := in.s
	if s.gated() {
		return errGateActivates
	}
	s.stage.Lock()
	defer s.stage.Unlock()
	if in.gone.Load() {
		return in.isGone()
	}
	if s.active.Load() != in.id {
		return nil
	}
	// Threads that only look (poll, futex, sleep) may be left where they sleep: what wakes one finds it parked.
	flags := client.Lazy
	if limit > 0 {
		flags |= client.Boundary
	}
	if err := s.session.Activate(client.None, flags, limit); err != nil {
		return in.explain("park", err)
	}
	s.active.Store(client.None)
	return nil
}

func (in *instance) isGone() error {
	return fmt.Errorf("instance %d of process %d: %w", in.id, in.PID(), engine.ErrGone)
}

func (in *instance) explain(what string, err error) error {
	if errors.Is(err, client.ErrState) { // it has crashed, and the event is on its way
		err = fmt.Errorf("%w: %w", engine.ErrGone, err)
	}
	return fmt.Errorf("%s instance %d of process %d: %w", what, in.id, in.PID(), translate(in.PID(), err))
}

// look reads the instance's descriptor table, in /proc: the process is the instance for a moment, with nothing
// running, and what it was before afterwards.
func (in *instance) look(conns engine.Conns) (*fdplan.Plan, error) {
	s := in.s
	s.stage.Lock()
	defer s.stage.Unlock()
	if in.gone.Load() {
		return nil, in.isGone()
	}
	if err := s.session.Activate(in.id, client.Hold, 0); err != nil {
		return nil, in.explain("look at", err)
	}
	p, err := s.readTable(in.inodes(), conns)
	// Whoever ran before runs on. One that has crashed just before is parked.
	back := s.session.Activate(s.active.Load(), client.Lazy, 0)
	if errors.Is(back, client.ErrState) || errors.Is(back, client.ErrNoRecord) {
		back = s.session.Activate(client.None, 0, 0)
	}
	if back != nil {
		err = errors.Join(err, in.explain("after a look at", back))
	}
	return p, err
}

func (in *instance) inodes() map[uint64]int {
	m := map[uint64]int{}
	for i, l := range in.listeners {
		if l.Network != "" {
			m[l.Inode] = i
		}
	}
	return m
}

// Dial implements engine.Instance.
func (in *instance) Dial(i int) (int, error) {
	if i < 0 || i >= len(in.listeners) || in.listeners[i].Network == "" {
		return -1, fmt.Errorf("instance %d of process %d has no listener %d", in.id, in.PID(), i)
	}
	fd, err := in.listeners[i].Dial(&in.s.net)
	if err != nil {
		return -1, fmt.Errorf("connect to instance %d of process %d: %w", in.id, in.PID(), err)
	}
	return fd, nil
}

// Exit implements engine.Instance.
func (in *instance) Exit() engine.Exit {
	if !in.gone.Load() {
		return engine.Exit{Code: -1}
	}
	return in.exit
}

// Memory implements engine.Instance.
func (in *instance) Memory() (engine.Memory, error) { return in.s.memory(in.id) }

func (s *service) memory(id uint32) (engine.Memory, error) {
	m, err := s.session.Memory(id)
	if err != nil {
		return engine.Memory{}, translate(s.process.PID, err)
	}
	return engine.Memory{Resident: m.Resident, Unique: m.Unique, Shared: m.Resident - m.Unique}, nil
}

// die takes note of the end of the instance. The caller has service.mu.
func (in *instance) die(exit engine.Exit) {
	if in.dead {
		return
	}
	in.dead = true
	in.exit = exit
	in.gone.Store(true)
	one := [8]byte{1}
	if _, err := unix.Write(in.died, one[:]); err != nil {
		in.s.target.Log.WithError(err).Error("cannot tell that an instance has died")
	}
}

// Kill implements engine.Instance.
func (in *instance) Kill() error {
	s := in.s
	s.mu.Lock()
	delete(s.instances, in.id)
	s.mu.Unlock()
	err := in.free()
	in.release()
	return err
}

// free ends the record and removes its sockets.
func (in *instance) free() error {
	err := in.discard()
	if errors.Is(err, client.ErrNoRecord) || errors.Is(err, client.ErrOver) {
		err = nil
	}
	if err != nil {
		err = in.explain("end", err)
	}
	for _, l := range in.listeners {
		err = errors.Join(err, l.Remove())
	}
	return err
}

func (in *instance) discard() error {
	s := in.s
	if s.gated() {
		return s.aside(func() error { return s.session.Discard(in.id) })
	}
	s.stage.Lock()
	defer s.stage.Unlock()
	if err := s.parkIfActive(in.id); err != nil {
		return err
	}
	return s.session.Discard(in.id)
}

// parkIfActive parks the process if it is record id. The caller has the stage.
func (s *service) parkIfActive(id uint32) error {
	if s.active.Load() != id {
		return nil
	}
	err := s.session.Activate(client.None, 0, 0)
	if err == nil {
		s.active.CompareAndSwap(id, client.None)
	}
	return err
}

// release frees what the engine holds; the record lives on.
func (in *instance) release() {
	if in.died >= 0 {
		unix.Close(in.died)
		in.died = -1
	}
}

type instanceHandle struct {
	ID        uint32            `json:"id"`
	Listeners []fdplan.Listener `json:"listeners"`
	TCP       []int             `json:"tcp,omitempty"`
}

// Handle implements engine.Instance.
func (in *instance) Handle() json.RawMessage {
	return mustJSON(instanceHandle{in.id, in.listeners, in.tcp})
}
