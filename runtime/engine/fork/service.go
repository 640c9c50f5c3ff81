package fork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/runtime/engine"
)

// New returns the fork engine. It needs ptrace over the service and nothing loaded into the kernel.
func New() engine.Engine { return forkEngine{} }

type forkEngine struct{}

func (forkEngine) Name() string { return "fork" }

// service is an adopted service.
type service struct {
	target  engine.Target
	process process // the adopted one, parked for good
	page    *ctl    // its control page
	base    *image
	sameIDs bool
	seccomp bool // the service has a filter
	net     netns
	files   *privateFiles
	seq     atomic.Uint64
	uses    workingSet

	liveMu sync.Mutex
	live   map[ender]struct{} // instances and images that Destroy has to end
}

// ender is an instance or an image.
type ender interface{ endNow() error }

func (s *service) track(e ender) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	if s.live == nil {
		s.live = map[ender]struct{}{}
	}
	s.live[e] = struct{}{}
}

func (s *service) forget(e ender) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	delete(s.live, e)
}

// Adopt implements engine.Engine.
func (forkEngine) Adopt(ctx context.Context, t engine.Target) (engine.Service, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", t.PID, err)
	}
	if err := precheck(t); err != nil {
		return nil, err
	}
	if err := releaseAbandoned(t.PID); err != nil {
		return nil, err
	}
	id, err := identify(t.PID)
	if err != nil {
		return nil, err
	}
	p, err := id.reopen()
	if err != nil {
		return nil, err
	}
	tr, err := newTracee(t.PID)
	if err != nil {
		p.close()
		return nil, err
	}
	defer tr.close()
	s := &service{target: t, process: p}
	if s.seccomp, err = underSeccomp(t.PID); err != nil {
		p.close()
		return nil, err
	}
	var written tree
	if s.files, written, err = adoptFiles(t); err != nil {
		p.close()
		return nil, err
	}
	s.enlarge(ctx)
	ad := &adoption{t: t, tracee: tr, pidfd: p.pidfd, seccomp: s.seccomp, files: s.files, written: written}
	x, err := ad.run(ctx)
	if err != nil {
		p.close()
		return nil, errors.Join(fmt.Errorf("adopt process %d: %w", t.PID, err), s.files.destroy())
	}
	s.page = ad.pages[0]
	s.base = &image{
		s: s, a: x, plan: ad.plan, threads: ad.threads, shared: ad.shared, files: written, filesInUse: ad.use, signals: ad.signals, advice: ad.advice,
		base: true,
	}
	if s.sameIDs, err = canKeepIDs(t.PID); err != nil {
		return nil, errors.Join(err, s.Destroy())
	}
	if !s.sameIDs {
		t.Log.WithField("service", t.PID).Warn("the service lacks CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: " +
			"instances get process ids of their own; programs that remember their thread ids may not work")
	}
	return s, nil
}

func precheck(t engine.Target) error {
	report, err := check.Process(t.PID, checkOptions(t, true))
	if err != nil {
		return err
	}
	for i, a := range t.Listeners {
		if !slices.ContainsFunc(report.FDs, func(f check.FD) bool { return f.Kind == check.KindListener && f.Listener == i }) {
			report.Blockers = append(report.Blockers, engine.Blocker{
				Object: "listener " + a.Address, Reason: "the service does not listen there, so no app could reach an instance",
				WayOut: "declare the address that the service is configured with",
			})
		}
	}
	return report.Err()
}

// underSeccomp reports whether the process has a seccomp filter.
func underSeccomp(pid int) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, gone(pid, err)
	}
	mode := field(status, "Seccomp")
	return mode != "" && mode != "0", nil
}

// canKeepIDs reports whether the service's credentials suffice for clone3 with CLONE_NEWPID and set_tid.
func canKeepIDs(pid int) (bool, error) {
	caps, err := effectiveCaps(pid)
	if err != nil {
		return false, err
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_CHECKPOINT_RESTORE
	return caps&need == need, nil
}

// Base implements engine.Service.
func (s *service) Base() engine.Image { return s.base }

// Branch implements engine.Service.
func (s *service) Branch(ctx context.Context, img engine.Image, keep []engine.ConnID) (engine.Instance, []engine.Plumbed, error) {
	m, ok := img.(*image)
	if !ok || m.s != s {
		return nil, nil, fmt.Errorf("image %T belongs to another service", img)
	}
	ctx, cancel := context.WithTimeout(ctx, opPatience)
	defer cancel()
	var in *instance
	var plumbed []engine.Plumbed
	err := s.guard(m.a, func() (err error) {
		in, plumbed, err = s.branch(ctx, m, keep)
		return err
	})
	if err != nil {
		if in != nil {
			err = errors.Join(err, in.endNow())
		}
		for _, p := range plumbed {
			unix.Close(p.FD)
		}
		return nil, nil, fmt.Errorf("branch: %w", err)
	}
	s.track(in)
	return in, plumbed, nil
}

// branch returns what it made also when it fails, for the caller to end.
func (s *service) branch(ctx context.Context, m *image, keep []engine.ConnID) (*instance, []engine.Plumbed, error) {
	mounts := s.files.prepare(m.files)
	m.forks.Lock()
	a, err := m.a.fork(ctx, s.files.unshare(unshareMappings(m.shared)))
	m.forks.Unlock()
	own, e := mounts.await()
	defer closeAll(own.mounts)
	if err != nil {
		return nil, nil, errors.Join(err, e, s.files.remove(own.files))
	}
	in := &instance{s: s, a: a, name: fmt.Sprintf("%d-%d", a.PID, s.seq.Add(1)), shared: m.shared, files: own.files, advice: m.advice}
	if err = e; err == nil {
		err = s.files.attach(a.PID, own.mounts, !m.base)
	}
	if err != nil {
		return in, nil, err
	}
	r := &rebuild{
		a: a, plan: m.plan, source: m.a.process, dir: s.target.Dir, dirs: s.target.Dirs, name: in.name, net: &s.net,
		keep: map[engine.ConnID]bool{}, roots: own.mounts, saved: s.files.saved(m.files),
	}
	if s.target.Broker != nil {
		r.device, in.binder = s.target.Broker.Device, m.plan.binder()
	}
	for _, id := range keep {
		r.keep[id] = true
	}
	err = r.run(ctx)
	in.listeners = r.listenerList(len(s.target.Listeners))
	if err == nil {
		err = in.enter(ctx, m)
	}
	if err == nil {
		err = in.a.advise(ctx, m.advice)
	}
	if err == nil {
		err = in.start(ctx, m)
	}
	if err == nil {
		err = in.publishBinder(ctx)
	}
	if err == nil {
		err = a.prepare(ctx)
	}
	return in, r.plumbed, err
}

func (r *rebuild) listenerList(n int) []listener {
	out := make([]listener, n)
	for i, l := range r.listeners {
		out[i] = l
	}
	return out
}

// opPatience bounds every operation that waits for injected code.
const opPatience = 30 * time.Second

// serviceHandle is what Recover needs.
type serviceHandle struct {
	Process identity        `json:"process"`
	Base    json.RawMessage `json:"base"`
	SameIDs bool            `json:"sameIDs"`
	Seq     uint64          `json:"seq"`
}

// Handle implements engine.Service.
func (s *service) Handle() json.RawMessage {
	return mustJSON(serviceHandle{s.process.identity, s.base.Handle(), s.sameIDs, s.seq.Load()})
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of numbers and strings
	}
	return b
}

// Recover implements engine.Engine.
func (forkEngine) Recover(ctx context.Context, t engine.Target, state json.RawMessage) (engine.Service, error) {
	var h serviceHandle
	if err := json.Unmarshal(state, &h); err != nil {
		return nil, fmt.Errorf("service handle: %w", err)
	}
	p, err := h.Process.reopen()
	if err != nil {
		return nil, err
	}
	s := &service{target: t, process: p, sameIDs: h.SameIDs}
	if s.seccomp, err = underSeccomp(p.PID); err != nil {
		p.close()
		return nil, err
	}
	s.seq.Store(h.Seq)
	if s.files, err = openFiles(t, p.PID); err != nil {
		p.close()
		return nil, fmt.Errorf("private files: %w", err)
	}
	if s.files != nil {
		s.files.learn(t)
	}
	img, err := s.OpenImage(ctx, h.Base)
	if err != nil {
		p.close()
		s.files.close()
		return nil, fmt.Errorf("base: %w", err)
	}
	s.base = img.(*image)
	s.base.base = true
	s.forget(s.base)
	return s, nil
}

// OpenImage implements engine.Service.
func (s *service) OpenImage(_ context.Context, handle json.RawMessage) (engine.Image, error) {
	var h imageHandle
	if err := json.Unmarshal(handle, &h); err != nil {
		return nil, fmt.Errorf("image handle: %w", err)
	}
	a, err := h.Anchor.open()
	if err != nil {
		return nil, err
	}
	img := &image{
		s: s, a: a, plan: h.Plan, threads: h.Threads, shared: h.Shared, files: h.Files, filesInUse: filesInUse{h.CWD, h.Maps},
		signals: h.Signals, advice: h.Advice,
	}
	s.files.know(h.Files)
	s.track(img)
	return img, nil
}

// Close implements engine.Service.
func (s *service) Close() error {
	s.process.close()
	s.net.close()
	s.files.close()
	if s.files != nil {
		s.files.removed.Wait()
	}
	if s.base != nil {
		s.base.a.release()
	}
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	for e := range s.live {
		switch e := e.(type) {
		case *instance:
			e.release()
		case *image:
			e.a.release()
		}
	}
	s.live = nil
	return s.page.close()
}

// Destroy implements engine.Service. The caller's instances and images are dead afterwards.
func (s *service) Destroy() error {
	s.liveMu.Lock()
	live := s.live
	s.live = nil
	s.liveMu.Unlock()
	var err error
	for e := range live {
		err = errors.Join(err, e.endNow())
	}
	if s.base != nil {
		err = errors.Join(err, s.sweepProcesses(), s.base.a.end())
	}
	err = errors.Join(err, s.process.end(), s.files.destroy())
	return errors.Join(err, s.Close())
}
