package kmod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/kmod/client/clienttest"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// module is a fake corsa.ko that counts records and copies nothing. It tells what the engine asks for; what comes of
// it in a kernel, the conformance suite shows.
type module struct {
	clienttest.Kernel
	mu      sync.Mutex
	next    uint32
	records map[uint32]client.RecordFlags
	active  uint32
	asked   []clienttest.Activate
}

func newModule() *module {
	m := &module{next: 1, records: map[uint32]client.RecordFlags{0: 0}}
	m.Replies = map[string]clienttest.Reply{
		"Version": func(arg any) (int, unix.Errno) {
			v := arg.(*clienttest.Version)
			v.Major, v.Features = clienttest.ABIMajor, uint64(client.FeatureCrash|client.FeatureExit)
			return 0, 0
		},
		"Checkpoint": m.copyAs(client.Image), "Branch": m.copyAs(0),
		"Activate": m.activate, "Discard": m.discard, "List": m.list,
		"FDs":     func(any) (int, unix.Errno) { return 0, 0 },
		"Detach":  func(any) (int, unix.Errno) { return 0, 0 },
		"Persist": func(any) (int, unix.Errno) { return 0, 0 },
	}
	return m
}

func (m *module) copyAs(flags client.RecordFlags) clienttest.Reply {
	return func(arg any) (int, unix.Errno) {
		m.mu.Lock()
		defer m.mu.Unlock()
		c := arg.(*clienttest.Copy)
		if _, ok := m.records[c.Src]; !ok {
			return -1, unix.ENOENT
		}
		c.ID = m.next
		m.next++
		m.records[c.ID] = flags
		return 0, 0
	}
}

func (m *module) activate(arg any) (int, unix.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := arg.(*clienttest.Activate)
	if flags, ok := m.records[a.ID]; a.ID != client.None && (!ok || flags != 0) {
		return -1, unix.EINVAL
	}
	m.active = a.ID
	m.asked = append(m.asked, *a)
	return 0, 0
}

func (m *module) discard(arg any) (int, unix.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := arg.(*clienttest.Discard).ID
	if _, ok := m.records[id]; !ok {
		return -1, unix.ENOENT
	}
	if m.active == id {
		return -1, unix.EBUSY
	}
	delete(m.records, id)
	return 0, 0
}

func (m *module) list(arg any) (int, unix.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := arg.(*clienttest.List)
	room := clienttest.Slice[clienttest.Record](l.Records, l.Cap)
	for id := range m.next {
		if flags, ok := m.records[id]; ok && l.Count < l.Cap {
			room[l.Count] = clienttest.Record{ID: id, Flags: uint32(flags)}
			l.Count++
		}
	}
	l.Active = m.active
	return 0, 0
}

func (m *module) engine() engine.Engine {
	return kmodEngine{open: func() (*client.Device, error) { return client.OpenWith(m) }}
}

// sleeper is a process to adopt.
func sleeper(t *testing.T) engine.Target {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a service that was destroyed has reaped it
		_ = cmd.Wait()
	})
	// What it opens and closes as it starts must not change under the engine, which believes that it has parked it.
	inSleep := fmt.Sprintf("%d ", unix.SYS_CLOCK_NANOSLEEP)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", cmd.Process.Pid))
		if err == nil && strings.HasPrefix(string(call), inSleep) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("sleep does not sleep: %q, %v", call, err)
		}
	}
	return engine.Target{PID: cmd.Process.Pid, Dir: t.TempDir(), Log: logrus.NewEntry(logrus.New())}
}

func adopt(t *testing.T, m *module) *service {
	t.Helper()
	svc, err := m.engine().Adopt(context.Background(), sleeper(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return svc.(*service)
}

func branch(t *testing.T, s *service) *instance {
	t.Helper()
	in, _, err := s.Branch(context.Background(), s.Base(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return in.(*instance)
}

// TestAdoptRefused asserts that what the module refuses is named, and that nothing is left attached.
func TestAdoptRefused(t *testing.T) {
	m := newModule()
	m.Replies["Checkpoint"] = func(arg any) (int, unix.Errno) {
		c := arg.(*clienttest.Copy)
		clienttest.Slice[clienttest.Refusal](c.Refusals, c.RefusalCap)[0] = clienttest.Refusal{Kind: uint32(client.RefuseTimer), FD: -1}
		c.RefusalCount = 1
		return -1, unix.EOPNOTSUPP
	}
	target := sleeper(t)
	_, err := m.engine().Adopt(context.Background(), target)
	var refusal *engine.Refusal
	if !errors.As(err, &refusal) || !errors.Is(err, engine.ErrRefused) {
		t.Fatalf("%v, want a refusal", err)
	}
	if b := refusal.Blockers; refusal.PID != target.PID || len(b) != 1 || b[0].Object != "timer" || b[0].Reason == "" || b[0].WayOut == "" {
		t.Errorf("%+v", refusal)
	}
	if calls := m.Calls(); calls[len(calls)-1] != "Detach" {
		t.Errorf("the session was not ended: %v", calls)
	}
}

// TestAdoptAbandoned asserts that what an engine that died while it adopted has left is undone first.
func TestAdoptAbandoned(t *testing.T) {
	m := newModule()
	joined := uint32(1)
	attach := func(arg any) (int, unix.Errno) {
		arg.(*clienttest.Attach).Joined = joined
		joined = 0
		return m.Session()
	}
	m.Replies["Attach"] = attach
	adopt(t, m)
	calls := m.Calls()
	i := slices.Index(calls, "Detach")
	if i < 1 || calls[i-1] != "Attach" || calls[i+1] != "Attach" {
		t.Errorf("%v", calls)
	}
}

// TestNoModule asserts that the error says what is missing.
func TestNoModule(t *testing.T) {
	m := newModule()
	m.OpenErrno = unix.ENOENT
	_, err := m.engine().Adopt(context.Background(), sleeper(t))
	if !errors.Is(err, client.ErrNoModule) || !strings.Contains(err.Error(), "insmod") {
		t.Errorf("%v", err)
	}
}

// TestCrash asserts that the right instance dies of a crash, and all of them with the process.
func TestCrash(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	a, b := branch(t, s), branch(t, s)
	if err := a.Activate(); err != nil {
		t.Fatal(err)
	}
	if readable(t, a.PIDFD(), 0) || readable(t, b.PIDFD(), 0) {
		t.Fatal("an instance is dead at birth")
	}
	event := clienttest.Event{Type: uint32(client.EventCrashed), ID: a.id, Next: client.None, Signo: int32(unix.SIGBUS)}
	if err := m.Emit(event); err != nil {
		t.Fatal(err)
	}
	if !readable(t, a.PIDFD(), 10000) {
		t.Fatal("the crash goes unnoticed")
	}
	if got := a.Exit(); got != (engine.Exit{Code: -1, Signal: int(unix.SIGBUS)}) || !a.Dormant() {
		t.Errorf("exit %+v, dormant %v", got, a.Dormant())
	}
	for _, err := range []error{a.Park(time.Second), a.Activate()} {
		if !errors.Is(err, engine.ErrGone) {
			t.Errorf("%v, want ErrGone", err)
		}
	}
	if err := b.Activate(); err != nil || b.Dormant() || readable(t, b.PIDFD(), 0) {
		t.Errorf("the other instance: %v", err)
	}
	if err := a.Kill(); err != nil {
		t.Error(err)
	}
	if err := m.Emit(clienttest.Event{Type: uint32(client.EventExec), ID: client.None}); err != nil {
		t.Fatal(err)
	}
	if !readable(t, b.PIDFD(), 10000) {
		t.Error("the end of the process goes unnoticed")
	}
	if late := branch(t, s); !readable(t, late.PIDFD(), 0) {
		t.Error("an instance of a process that is gone lives")
	}
}

// readable says whether fd can be read within milliseconds.
func readable(t *testing.T, fd, milliseconds int) bool {
	t.Helper()
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, milliseconds)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1 && p[0].Revents == unix.POLLIN
		}
	}
}

// TestSwap asserts which requests the transaction path makes.
func TestSwap(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	a, b := branch(t, s), branch(t, s)
	m.asked = nil
	steps := []error{
		a.Activate(), a.Activate(), a.Park(time.Second), a.Park(0), b.Activate(), a.Activate(), b.Park(0), a.Park(0),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	want := []clienttest.Activate{
		{ID: a.id, Flags: uint32(client.Lazy)},
		{ID: client.None, Flags: uint32(client.Boundary | client.Lazy), TimeoutNS: uint64(time.Second)},
		{ID: b.id, Flags: uint32(client.Lazy)},
		{ID: a.id, Flags: uint32(client.Lazy)},
		{ID: client.None, Flags: uint32(client.Lazy)},
	}
	for i := range m.asked {
		m.asked[i].Size = 0
	}
	if !slices.Equal(m.asked, want) {
		t.Errorf("asked for %+v\nwant %+v", m.asked, want)
	}
}

// TestCheckpointGivesBack asserts that whoever ran before a capture runs after it.
func TestCheckpointGivesBack(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	a, b := branch(t, s), branch(t, s)
	if err := b.Activate(); err != nil {
		t.Fatal(err)
	}
	img, timing, err := s.Checkpoint(context.Background(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.active != b.id || b.Dormant() || !a.Dormant() || timing.Total <= 0 {
		t.Errorf("record %d is active, want %d; %+v", m.active, b.id, timing)
	}
	if _, _, err := s.Checkpoint(context.Background(), b, nil); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("checkpoint of an active instance: %v", err)
	}
	if err := img.Discard(); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Branch(context.Background(), img, nil); !errors.Is(err, engine.ErrGone) {
		t.Errorf("branch of a discarded image: %v", err)
	}
	if err := s.Base().Discard(); err == nil {
		t.Error("the base was discarded")
	}
}

// TestRecoverWithoutSession asserts that a process that the module does not know any more is gone for the engine.
func TestRecoverWithoutSession(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	if _, err := m.engine().Recover(context.Background(), s.target, s.Handle()); !errors.Is(err, engine.ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}

// TestSweep asserts that records that nobody knows of are freed, and no others.
func TestSweep(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	a, lost := branch(t, s), branch(t, s)
	img, _, err := s.Checkpoint(context.Background(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	delete(s.instances, lost.id)
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	want := map[uint32]client.RecordFlags{original: 0, s.base.id: client.Image, a.id: 0, img.(*image).id: client.Image}
	for id, flags := range want {
		if got, ok := m.records[id]; !ok || got != flags {
			t.Errorf("record %d is gone", id)
		}
	}
	if len(m.records) != len(want) {
		t.Errorf("records %v, want %v", m.records, want)
	}
	lost.release()
}

// TestInstalling asserts in which order a descriptor table is made: what is watched before what watches it.
func TestInstalling(t *testing.T) {
	p := &fdplan.Plan{FDs: []fdplan.FD{
		{FD: 3, Kind: fdplan.Epoll, Flags: unix.O_CLOEXEC, Watches: []fdplan.Watch{{FD: 4, Events: 1, Data: 5}, {FD: 7, Events: 1}}},
		{FD: 4, Kind: fdplan.Event},
		{FD: 5, Kind: fdplan.Event, DupOf: 1 + 4, Flags: unix.O_CLOEXEC},
		{FD: 6, Kind: fdplan.Epoll, DupOf: 1 + 3},
		{FD: 7, Kind: fdplan.Epoll},
	}}
	got, err := installing(p, map[int]int{4: 20})
	want := []client.FDOp{
		client.Install(4, 20, false), client.Dup(5, 4, true),
		client.EpollNew(3, true), client.Dup(6, 3, false), client.EpollNew(7, false),
		client.EpollAdd(3, 4, 1, 5), client.EpollAdd(3, 7, 1, 0),
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v\nwant %v", got, err, want)
	}
	if _, err := installing(p, nil); err == nil {
		t.Error("a descriptor that was not made is left out")
	}
}

// TestSignalInEpoll asserts the refusal of what an engine outside the process cannot add to a set.
func TestSignalInEpoll(t *testing.T) {
	p := &fdplan.Plan{FDs: []fdplan.FD{
		{FD: 3, Kind: fdplan.Epoll, Watches: []fdplan.Watch{{FD: 9}}}, {FD: 9, Kind: fdplan.Signal},
	}}
	err := privateOnly(1, p)
	if !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), "fd 9 (signalfd") {
		t.Errorf("%v", err)
	}
	p.FDs[0].Watches = nil
	if err := privateOnly(1, p); err != nil {
		t.Error(err)
	}
}

// TestOpenInstanceThatCrashes asserts that a crash is noticed that comes between the first look at a record and the time
// from which events about it are heard.
func TestOpenInstanceThatCrashes(t *testing.T) {
	m := newModule()
	s := adopt(t, m)
	s.nonce = 0 // the module of this test keeps no cookies
	old := branch(t, s)
	delete(s.instances, old.id) // an earlier monitor's
	looks := 0
	m.Replies["List"] = func(arg any) (int, unix.Errno) {
		n, errno := m.list(arg)
		if looks++; looks == 1 {
			m.mu.Lock()
			m.records[old.id] = client.Crashed
			m.mu.Unlock()
			s.crashed(old.id, engine.Exit{Code: -1, Signal: int(unix.SIGSEGV)}) // the event
		}
		return n, errno
	}
	in, err := s.OpenInstance(context.Background(), old.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.PIDFD()), Events: unix.POLLIN}}, 0); n != 1 || err != nil {
		t.Errorf("the instance seems to live: %d, %v", n, err)
	}
	if err := in.Activate(); !errors.Is(err, engine.ErrGone) {
		t.Errorf("activated: %v", err)
	}
}
