package kmod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// service is an adopted service: a session with its process.
type service struct {
	target  engine.Target
	process process
	session *client.Session
	nonce   uint64 // the cookie of all records of this adoption
	base    *image
	net     fdplan.Netns
	mail    mailbox

	// stage is held while the process becomes another record, and while a capture looks at one through /proc. The
	// module serialises requests anyway; nobody waits for it but for a capture.
	stage  sync.Mutex
	active atomic.Uint32 // record that runs, or client.None; written under stage, and by follow when it crashes

	mu        sync.Mutex
	instances map[uint32]*instance
	images    map[uint32]*image
	over      *engine.Exit // how the process ended
	closed    bool
	following sync.WaitGroup
}

var (
	_ engine.Service           = (*service)(nil)
	_ engine.Sweeper           = (*service)(nil)
	_ engine.Signaller         = (*service)(nil)
	_ engine.EarlyCheckpointer = (*service)(nil)
)

func newService(t engine.Target, p process, session *client.Session) *service {
	s := &service{target: t, process: p, session: session, instances: map[uint32]*instance{}, images: map[uint32]*image{}}
	s.mail.wake = make(chan struct{}, 1)
	s.following.Add(1)
	return s
}

// Base implements engine.Service.
func (s *service) Base() engine.Image { return s.base }

// Branch implements engine.Service.
func (s *service) Branch(ctx context.Context, img engine.Image, keep []engine.ConnID) (engine.Instance, []engine.Plumbed, error) {
	m, ok := img.(*image)
	if !ok || m.s != s {
		return nil, nil, fmt.Errorf("image %T belongs to another service", img)
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("branch: %w", err)
	}
	c, err := s.session.Branch(m.id, 0, s.nonce)
	if err != nil {
		return nil, nil, fmt.Errorf("branch: %w", translate(s.process.PID, err))
	}
	in := &instance{s: s, id: c.ID, died: -1}
	maker := &fdplan.Maker{
		Plan: m.plan, Dir: s.target.Dir, Name: fmt.Sprintf("%d-%d", s.process.PID, c.ID), Net: &s.net, Keep: map[engine.ConnID]bool{},
	}
	for _, id := range keep {
		maker.Keep[id] = true
	}
	defer maker.Close()
	err = s.furnish(in, maker)
	if err == nil {
		err = s.lookAfter(in)
	}
	if err != nil {
		maker.Unplumb()
		return nil, nil, errors.Join(fmt.Errorf("branch: %w", err), in.free())
	}
	return in, maker.Plumbed, nil
}

// furnish gives a new instance descriptors of its own.
func (s *service) furnish(in *instance, maker *fdplan.Maker) error {
	err := maker.Run()
	in.listeners = maker.ListenerList(len(s.target.Listeners))
	if err != nil {
		return err
	}
	for i := range maker.Plan.FDs {
		if f := &maker.Plan.FDs[i]; f.Kind == fdplan.Listen && f.Family != unix.AF_UNIX {
			in.tcp = append(in.tcp, f.FD)
		}
	}
	ops, err := installing(maker.Plan, maker.Made)
	if err != nil {
		return err
	}
	return translate(s.process.PID, s.session.EditFDs(in.id, ops))
}

// lookAfter begins to look after an instance.
func (s *service) lookAfter(in *instance) error {
	var err error
	if in.died, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		in.died = -1
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances[in.id] = in
	if s.over != nil {
		in.die(*s.over)
	}
	return nil
}

// Checkpoint implements engine.Service.
func (s *service) Checkpoint(ctx context.Context, inst engine.Instance, conns engine.Conns) (engine.Image, engine.Timing, error) {
	c, err := s.CheckpointEarly(ctx, inst, conns, nil)
	if err != nil {
		return nil, c.Timing, err
	}
	return c.Image, c.Timing, nil
}

// CheckpointEarly implements engine.EarlyCheckpointer.
func (s *service) CheckpointEarly(ctx context.Context, inst engine.Instance, conns engine.Conns, resume func()) (engine.Captured, error) {
	var out engine.Captured
	in, ok := inst.(*instance)
	if !ok || in.s != s {
		return out, fmt.Errorf("instance %T belongs to another service", inst)
	}
	if !s.gated() && !in.Dormant() {
		return out, fmt.Errorf("checkpoint of an instance that runs: %w", engine.ErrBusy)
	}
	if err := ctx.Err(); err != nil {
		return out, fmt.Errorf("checkpoint: %w", err)
	}
	start := time.Now()
	p, c, capture, err := s.capture(in, conns)
	out.Timing.Capture = capture
	if err != nil {
		return out, fmt.Errorf("checkpoint: %w", err)
	}
	out.Timing.Fork, out.Timing.Pause = c.Total, time.Since(start)
	if resume != nil {
		resume()
	}
	img := &image{s: s, id: c.ID, plan: p}
	if err := s.session.EditFDs(c.ID, closing(p)); err != nil {
		return out, errors.Join(fmt.Errorf("checkpoint: %w", translate(s.process.PID, err)), img.free())
	}
	s.mu.Lock()
	s.images[c.ID] = img
	s.mu.Unlock()
	out.Image, out.Instance, out.Timing.Total = img, in.Handle(), time.Since(start)
	return out, nil
}

// capture reads the descriptors of a dormant instance and copies it. It returns how long the former took.
func (s *service) capture(in *instance, conns engine.Conns) (p *fdplan.Plan, c client.Copied, capture time.Duration, err error) {
	if s.gated() {
		return s.captureGated(in, conns)
	}
	start := time.Now()
	p, err = in.look(conns)
	capture = time.Since(start)
	if err == nil {
		c, err = s.session.Checkpoint(in.id, 0, s.nonce)
		err = translate(s.process.PID, err)
	}
	return p, c, capture, err
}

// Signal implements engine.Signaller.
func (s *service) Signal(sig unix.Signal) error {
	return gone(s.process.PID, unix.PidfdSendSignal(s.process.pidfd, sig, nil, 0))
}

// Close implements engine.Service.
func (s *service) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	live := s.instances
	s.instances, s.images = map[uint32]*instance{}, map[uint32]*image{}
	s.mu.Unlock()
	err := s.session.Close()
	s.following.Wait()
	for _, in := range live {
		in.release()
	}
	s.net.Close()
	s.process.close()
	return err
}

// Destroy implements engine.Service. All records end with the process.
func (s *service) Destroy() error {
	s.mu.Lock()
	live := s.instances
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil
	}
	err := s.process.end()
	for _, in := range live {
		for _, l := range in.listeners {
			err = errors.Join(err, l.Remove())
		}
	}
	return errors.Join(err, s.Close())
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of numbers and strings
	}
	return b
}
