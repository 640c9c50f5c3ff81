package fork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/sockpath"
)

// instance is a private copy of the service: an anchor and, sharing everything with it, the service's threads.
type instance struct {
	s         *service
	a         *anchor
	leader    process
	initp     process // of its pid namespace; zero without one
	name      string
	listeners []listener
	shared    []mapping
	files     tree
	hidden    []int   // descriptors that the last checkpoint did not share; nil: there was none
	binder    *planFD // the Binder device; nil: it has none open
	token     engine.BrokerToken

	advice      *advice
	adviceStale bool   // it may have changed
	locked      uint64 // bytes, when advice was read

	compaction compaction

	tracee *tracee
	parker parker
	proc   procFiles // of the leader
	active atomic.Bool
	halted bool         // dormant, but only stopped: Settle has yet to be called
	due    atomic.Int64 // when the first wait of a dormant instance has to time out, of monotonic; 0: none has to
	timers timerfds
}

// start spawns the threads, parked.
func (in *instance) start(ctx context.Context, m *image) error {
	sp := &spawn{
		a: in.a, threads: append([]threadState(nil), m.threads...), sameIDs: in.s.sameIDs, seccomp: in.s.seccomp,
		plan: m.plan, binder: in.binder, signals: m.signals,
	}
	in.a.own.setRun(runParked)
	var err error
	if in.leader, in.initp, err = sp.run(ctx); err != nil {
		return err
	}
	in.a.leader = &in.leader
	for i := range sp.threads {
		sp.threads[i].Pending = nil // they have been queued
	}
	find := adoptThreads
	if in.s.sameIDs && translates() {
		find = knownThreads
	}
	if err := in.follow(sp.threads, find); err != nil {
		return err
	}
	in.tracee.whole = m.plan.ordersSignals() || m.signals.ordered()
	for i := range in.tracee.threads {
		in.tracee.threads[i].place = placeStub
		if err := setScheduling(in.tracee.threads[i].tid, in.tracee.threads[i].state, in.a.slack); err != nil {
			return err
		}
	}
	return nil
}

// follow prepares for parking. find fills in the threads.
func (in *instance) follow(threads []threadState, find func(*tracee, []threadState) error) error {
	var err error
	if in.tracee, err = newTracee(in.leader.PID); err != nil {
		return err
	}
	in.tracee.arena, in.proc.pid = in.a.arena, in.leader.PID
	if in.s.seccomp {
		in.tracee.options = unix.PTRACE_O_SUSPEND_SECCOMP
	}
	in.parker = parker{
		t: in.tracee, arena: in.a.arena, side: in.a.side, used: make([]bool, maxThreads), seccomp: in.s.seccomp,
	}
	if err := find(in.tracee, threads); err != nil {
		return err
	}
	for i := range in.tracee.threads { // what it was spawned from says it all
		in.tracee.threads[i].described = in.tracee.threads[i].known
	}
	return nil
}

// PID implements engine.Instance.
func (in *instance) PID() int { return in.leader.PID }

// PIDFD implements engine.Instance.
func (in *instance) PIDFD() int { return in.leader.pidfd }

// Dormant implements engine.Instance.
func (in *instance) Dormant() bool { return !in.active.Load() }

// Activate implements engine.Instance: one store and one FUTEX_WAKE, unless a wait has to time out.
func (in *instance) Activate() error {
	if in.active.Load() {
		return nil
	}
	if in.halted {
		if due := in.tracee.due(); due == 0 || monotonic() < due {
			in.halted = false
			in.tracee.resume()
			in.active.Store(true)
			return nil
		}
		if err := in.Settle(); err != nil { // it is in the frame that a wait times out
			return err
		}
	}
	if due := in.due.Load(); due != 0 {
		if now := monotonic(); now >= due {
			in.tracee.expire(in.a.arena, now)
		}
	}
	in.active.Store(true)
	in.a.own.setRun(runGo)
	return nil
}

// Park implements engine.Instance.
func (in *instance) Park(limit time.Duration) error { return in.park(limit, (*tracee).stopRunnable) }

// Halt implements engine.Halter. If the caller dies now the threads run on, as after a death in the middle of Park.
func (in *instance) Halt(limit time.Duration) error {
	if !in.active.Load() {
		return nil
	}
	in.tracee.brief = true
	err := in.tracee.stopRunnable(limit)
	in.tracee.brief = false
	if err != nil {
		return err
	}
	in.halted = true
	in.active.Store(false)
	return nil
}

// Settle implements engine.Halter.
func (in *instance) Settle() error {
	if !in.halted {
		return nil
	}
	in.halted = false
	err := in.tracee.stopOthers(0) // those of which it was enough to know that they have not run
	if err == nil {
		err = in.intoStub()
	}
	if err != nil {
		in.active.Store(true)
	}
	return err
}

// intoStub sends the stopped threads into the stub.
func (in *instance) intoStub() error {
	in.a.own.setRun(runParked)
	if err := in.parker.park(); err != nil {
		// Whatever was sent into the stub already comes back out of it: all or none is dormant.
		in.tracee.release()
		in.a.own.setRun(runGo)
		return err
	}
	in.due.Store(in.tracee.due())
	return nil
}

// park makes an active instance dormant; stop says which threads are sent into the stub.
func (in *instance) park(limit time.Duration, stop func(*tracee, time.Duration) error) error {
	if !in.active.Load() {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := stop(in.tracee, limit); err != nil {
		return err
	}
	if err := in.intoStub(); err != nil {
		return err
	}
	in.active.Store(false)
	return nil
}

// parkRest sends the threads of a dormant instance that were left asleep into the stub, too, so that there is a frame of each.
func (in *instance) parkRest() error {
	if in.tracee.inStub() {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := in.tracee.stopSleepers(); err != nil {
		return err
	}
	if err := in.parker.park(); err != nil {
		in.tracee.release()
		return err
	}
	in.due.Store(in.tracee.due())
	return nil
}

// Dial implements engine.Instance.
func (in *instance) Dial(i int) (int, error) {
	if i < 0 || i >= len(in.listeners) || in.listeners[i].Network == "" {
		return -1, fmt.Errorf("instance %d has no listener %d", in.PID(), i)
	}
	l := in.listeners[i]
	if l.Network != "unix" {
		port, err := strconv.Atoi(l.Address)
		if err != nil {
			return -1, err
		}
		return in.s.net.dial(unix.AF_INET, port)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := sockpath.With(l.Address, func(name string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) }); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to instance %d: %w", in.PID(), err)
	}
	return fd, nil
}

// Addresses implements engine.Reachable.
func (in *instance) Addresses() []engine.Address {
	out := make([]engine.Address, len(in.listeners))
	for i, l := range in.listeners {
		out[i] = engine.Address{Network: l.Network, Address: l.Address}
	}
	return out
}

// Anchor implements engine.Anchored.
func (in *instance) Anchor() int { return in.a.PID }

// CPUTime implements engine.Metered.
func (in *instance) CPUTime() time.Duration {
	ns, ok := in.tracee.cpuTime()
	if !ok {
		return 0
	}
	return time.Duration(ns)
}

// Exit implements engine.Instance.
func (in *instance) Exit() engine.Exit {
	e, err := exitStatus(in.leader.PID)
	if err != nil {
		return engine.Exit{Code: -1} // reaped by someone else: how it ended is lost
	}
	return e
}

// Memory implements engine.Instance.
func (in *instance) Memory() (engine.Memory, error) {
	mem, err := memory(in.a.PID)
	if err != nil {
		return mem, err
	}
	files, err := in.s.files.measure(in.files)
	mem.Files = files.Bytes
	return mem, err
}

// Kill implements engine.Instance.
func (in *instance) Kill() error {
	in.s.forget(in)
	return in.endNow()
}

// release frees what the engine holds; the processes live on.
func (in *instance) release() {
	in.proc.close()
	in.leader.close()
	in.initp.close()
	in.a.release()
	if in.tracee != nil {
		in.tracee.close()
	}
}

func (in *instance) endNow() error {
	err := endAll(in.initp, in.leader, in.a.process)
	in.release()
	for _, l := range in.listeners {
		if l.Network == "unix" {
			if e := os.Remove(l.Address); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	in.s.files.discard(in.files, in.s.target.Log)
	return err
}

func (in *instance) listenerInodes() map[uint64]int {
	m := map[uint64]int{}
	for i, l := range in.listeners {
		if l.Network != "" {
			m[l.Inode] = i
		}
	}
	return m
}

// threadStates lists the threads, the leader first.
func (in *instance) threadStates() []threadState {
	out := make([]threadState, 0, len(in.tracee.threads))
	for i := range in.tracee.threads {
		th := &in.tracee.threads[i]
		if !th.known {
			continue // it has always been left asleep: whoever opens the instance takes it for a new one
		}
		if in.s.seccomp { // else it tells in its slot
			th.state.readScheduling(th.tid)
		}
		out = append(out, th.state)
		if th.tid == in.leader.PID && len(out) > 1 {
			out[0], out[len(out)-1] = out[len(out)-1], out[0]
		}
	}
	return out
}

// intact gives ErrGone if the leader has been killed. As it dies it loses its memory first, then its descriptors, and /proc
// goes on to show an empty table of each: what has been read there before counts only if the memory is still there after.
func (in *instance) intact() error {
	var b [1]byte
	return gone(in.leader.PID, readMem(in.leader.PID, uint64(in.a.arena), b[:]))
}

// readSignals reads what a dormant instance has pending.
func (in *instance) readSignals(states []threadState) (*signals, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := parkedGroup{t: in.tracee, arena: in.a.arena, side: in.a.side, seccomp: in.s.seccomp, files: &in.proc}
	return g.readSignals(states)
}

type instanceHandle struct {
	Anchor    anchorHandle  `json:"anchor"`
	Leader    identity      `json:"leader"`
	Init      identity      `json:"init"`
	Name      string        `json:"name"`
	Listeners []listener    `json:"listeners"`
	Threads   []threadState `json:"threads"`
	Shared    []mapping     `json:"shared,omitempty"`
	Binder    *planFD       `json:"binder,omitempty"`
	Files     tree          `json:"files,omitzero"`
	Whole     bool          `json:"whole,omitempty"` // no thread may be left asleep
}

// Handle implements engine.Instance.
func (in *instance) Handle() json.RawMessage { return in.handleWith(in.threadStates()) }

func (in *instance) handleWith(threads []threadState) json.RawMessage {
	return mustJSON(instanceHandle{
		in.a.handle(), in.leader.identity, in.initp.identity, in.name, in.listeners, threads, in.shared, in.binder,
		in.files, in.tracee.whole,
	})
}

// OpenInstance implements engine.Service. The instance may have been dormant, active or half parked when the engine
// died; afterwards it is dormant or active again.
func (s *service) OpenInstance(ctx context.Context, handle json.RawMessage) (engine.Instance, error) {
	var h instanceHandle
	if err := json.Unmarshal(handle, &h); err != nil {
		return nil, fmt.Errorf("instance handle: %w", err)
	}
	a, err := h.Anchor.find()
	if err != nil {
		return nil, err
	}
	in := &instance{s: s, a: a, name: h.Name, listeners: h.Listeners, shared: h.Shared, binder: h.Binder, files: h.Files}
	s.files.know(h.Files)
	// The init first: it shares the descriptors, and would keep an app's connection open although the instance is dead.
	if h.Init.PID != 0 {
		if in.initp, err = h.Init.reopen(); err != nil {
			return nil, in.notOpened(err)
		}
	}
	if in.leader, err = h.Leader.reopen(); err != nil {
		return nil, in.notOpened(err)
	}
	a.leader = &in.leader
	if err := a.tidy(); err != nil {
		return nil, in.notOpened(err)
	}
	if err := in.follow(h.Threads, adoptThreads); err != nil {
		return nil, in.notOpened(err)
	}
	in.tracee.whole = h.Whole
	if err := in.inheritNetns(); err != nil {
		return nil, in.notOpened(err)
	}
	if err := in.publishBinder(ctx); err != nil {
		return nil, in.notOpened(err)
	}
	in.adviceStale = true // what was known of it is not in the handle
	s.track(in)
	in.active.Store(true)
	if in.a.own.running() {
		return in, nil
	}
	// It was dormant, or the engine died while it was parking it. All threads run, then all are parked: only so is it
	// certain that none was caught in between.
	in.a.own.setRun(runGo)
	if err := in.park(0, (*tracee).stop); err != nil {
		s.forget(in)
		return nil, in.notOpened(err)
	}
	return in, nil
}

// notOpened ends what is left of an instance of which a part is gone. One that merely could not be opened, for want of
// descriptors or memory, lives on: the next attempt may find it.
func (in *instance) notOpened(err error) error {
	if errors.Is(err, engine.ErrGone) {
		return errors.Join(err, in.Kill())
	}
	in.release()
	return err
}

// inheritNetns finds the engine's network namespace through a TCP listener of the instance.
func (in *instance) inheritNetns() error {
	for _, l := range in.listeners {
		if l.Network != "tcp" {
			continue
		}
		dir := fmt.Sprintf("/proc/%d/fd", in.leader.PID)
		names, err := os.ReadDir(dir)
		if err != nil {
			return gone(in.leader.PID, err)
		}
		for _, n := range names {
			link, err := os.Readlink(dir + "/" + n.Name())
			if err != nil || !strings.HasPrefix(link, "socket:") {
				continue
			}
			if ino, ok := linkInode(link); !ok || ino != l.Inode {
				continue
			}
			fd, err := strconv.Atoi(n.Name())
			if err != nil {
				return err
			}
			s, err := unix.PidfdGetfd(in.leader.pidfd, fd, 0)
			if err != nil {
				return gone(in.leader.PID, err)
			}
			defer unix.Close(s)
			return in.s.net.inherit(s)
		}
	}
	return nil
}
