package binderservice_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const first, second, third = 2001, 2002, 2003

// Every app has a state of its own, whatever it does, and all at once.
func TestGuestApps(t *testing.T) {
	s := serve(t)
	for i, uid := range []int{first, second, third} {
		s.says("1", uid, "put", fmt.Sprint("text ", i))
	}
	for i, uid := range []int{first, second, third} {
		s.says(fmt.Sprint("text ", i), uid, "get")
		s.says("5", uid, "callback", "5")
		s.says(fmt.Sprintf("1 text %d\n2 text %d", i, i), uid, "session")
	}
	s.says("9", first, "count") // put, get, 5 with callbacks, session, count; the steps are another object's
	s.says("", first, "oneway", "50")
	s.eventually("the oneway calls arrive", func() bool {
		n, err := s.call(first, "count")
		return err == nil && n >= "60" && len(n) == 2
	})
	var all sync.WaitGroup
	for _, uid := range []int{first, second, third} {
		all.Add(1)
		go func() {
			defer all.Done()
			if got, err := s.call(uid, "fill", "200"); err != nil || got != "200" {
				t.Error(got, err)
			}
		}()
	}
	all.Wait()
	apps := s.apps()
	if a := apps["uid:2001"]; a.Path != "kernel" || a.Transactions < 250 || a.Crashes != 0 {
		t.Errorf("%+v", a)
	}
}

// A crash is one app's: the others go on, and it gets its newest checkpoint back, with the objects that were in it.
func TestGuestCrash(t *testing.T) {
	s := serve(t)
	s.says("1", first, "put", "before")
	s.says("1", second, "put", "other")
	old := s.keep(first)
	s.must("checkpoint", "--app", "2001", s.id)
	young := s.keep(first)
	s.says("2", first, "put", "after")
	old.says("1 after")
	young.says("1 after")

	busy := make(chan error, 1)
	go func() {
		got, err := s.call(second, "fill", "150")
		if err == nil && got != "150" {
			err = errors.New(got)
		}
		busy <- err
	}()
	s.fails("", first, "crash")
	s.says("before", first, "get")
	old.says("1 before")
	young.says("binder object")
	if err := <-busy; err != nil {
		t.Error(err)
	}
	s.says("other", second, "get")
	if apps := s.apps(); apps["uid:2001"].Crashes != 1 || apps["uid:2002"].Crashes != 0 {
		t.Errorf("%+v", apps)
	}
}

// holder is a client that has an object of the service.
type holder struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func (s *served) keep(uid int) *holder {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.client(ctx, uid, "keep")
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	h := &holder{s.t, in, bufio.NewReader(out)}
	if line := h.line(); line != "ready" {
		s.t.Fatalf("the client says %q", line)
	}
	return h
}

func (h *holder) line() string {
	h.t.Helper()
	text, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

// says calls the object, which has to answer with something that begins so.
func (h *holder) says(want string) {
	h.t.Helper()
	if _, err := io.WriteString(h.in, "\n"); err != nil {
		h.t.Fatal(err)
	}
	if got := h.line(); !strings.HasPrefix(got, want) {
		h.t.Fatalf("the object answers %q, want %q", got, want)
	}
}

// A restore brings any earlier state back, also of an app whose instance is active.
func TestGuestRestore(t *testing.T) {
	s := serve(t)
	s.says("1", first, "put", "one")
	s.must("checkpoint", "--app", "2001", "--tag", "first", s.id)
	s.says("2", first, "put", "two")
	s.must("checkpoint", "--app", "2001", s.id)
	s.says("3", first, "put", "three")
	s.says("1", second, "put", "other")
	s.must("restore", "--app", "2001", "--to", "first", s.id)
	s.says("one", first, "get")
	s.must("restore", "--app", "2001", s.id)
	s.says("one", first, "get") // the newest in the line that it is on
	s.must("restore", "--app", "2001", "--to", "base", s.id)
	s.says("", first, "get")
	s.says("1", first, "put", "anew")
	s.says("other", second, "get")
}

// Checkpoints by number and by time are taken without anybody asking.
func TestGuestPolicies(t *testing.T) {
	t.Run("every", func(t *testing.T) {
		s := serve(t, "--checkpoint", "every=3")
		for i := 1; i <= 9; i++ {
			s.says(fmt.Sprint(i), first, "put", fmt.Sprint("text ", i))
		}
		s.eventually("three checkpoints", func() bool { return s.apps()["uid:2001"].Checkpoints == 3 })
		s.fails("", first, "crash")
		s.says("text 9", first, "get")
	})
	t.Run("interval", func(t *testing.T) {
		s := serve(t, "--checkpoint", "interval=100ms")
		s.says("1", first, "put", "text")
		s.eventually("a checkpoint", func() bool { return s.apps()["uid:2001"].Checkpoints == 1 })
		time.Sleep(300 * time.Millisecond)
		if n := s.apps()["uid:2001"].Checkpoints; n != 1 {
			t.Errorf("%d checkpoints without a transaction", n)
		}
		s.fails("", first, "crash")
		s.says("text", first, "get")
	})
}

// An app that crashes again and again is turned away, until it is restored; others are served.
func TestGuestCrashLoop(t *testing.T) {
	s := serve(t)
	s.says("1", second, "put", "other")
	for range 5 {
		s.fails("", first, "crash")
	}
	s.eventually("it is quarantined", func() bool { return s.apps()["uid:2001"].State == "quarantined" })
	s.fails("transaction failed", first, "get")
	s.says("other", second, "get")
	s.must("restore", "--app", "2001", "--to", "base", s.id)
	s.says("1", first, "put", "again")
}

// With on-crash=stop the first crash is the last.
func TestGuestStop(t *testing.T) {
	s := serve(t, "--on-crash", "stop")
	s.says("1", first, "put", "text")
	s.fails("", first, "crash")
	s.eventually("it is stopped", func() bool { return s.apps()["uid:2001"].State == "stopped" })
	s.fails("transaction failed", first, "get")
	s.must("restore", "--app", "2001", s.id)
	s.says("1", first, "put", "anew")
}

// When the monitor is killed, apps go on as if nothing had been; the next one knows everything.
func TestGuestMonitorKilled(t *testing.T) {
	s := serve(t)
	s.says("1", first, "put", "one")
	s.must("checkpoint", "--app", "2001", s.id)
	s.says("2", first, "put", "two")
	s.says("1", second, "put", "other")
	kept := s.keep(first)
	before := s.apps()["uid:2001"]
	for round := range 3 {
		old := s.monitor()
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.says("two", first, "get")
		s.says("1", third+round, "put", "new") // waits for the next monitor
		kept.says(fmt.Sprint(round+1, " two"))
		s.eventually("another monitor", func() bool { return s.monitor() != old })
		if a := s.apps()["uid:2001"]; a.Checkpoints != 1 || a.Transactions <= before.Transactions || a.State == "gone" {
			t.Errorf("%+v, and before %+v", a, before)
		}
	}
	s.fails("", first, "crash")
	s.says("one", first, "get")
	s.says("other", second, "get")

	// What crashes while there is no monitor is put back by the next one.
	s.says("2", first, "put", "three")
	s.must("checkpoint", "--app", "2001", s.id)
	if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.fails("", first, "crash")
	s.says("three", first, "get")
	s.says("other", second, "get")
}

// A service that brings no service manager gets one, which is not virtualised: names are common to all.
func TestGuestManager(t *testing.T) {
	s := serveAs(t, "/dev/binder#store", "--binder-manager", "aidl3", "--binder-names", "store")
	s.says("1", first, "put", "one")
	s.says("1", second, "put", "two")
	s.says("one", first, "get")
	s.fails("", first, "crash")
	s.says("", first, "get")
	s.says("two", second, "get")
	if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.says("two", second, "get")
	s.says("1", third, "put", "three")
}

// An app may be a process: it ends, and its instance with it.
func TestGuestByPID(t *testing.T) {
	s := serve(t, "--app-key", "pid")
	s.says("1", first, "put", "one")
	s.says("", first, "get") // another process
	kept := s.keep(first)
	kept.says("1")
	kept.says("2")
	s.eventually("those that have ended are gone", func() bool { return len(s.apps()) == 1 })
	for name, a := range s.apps() {
		if !strings.HasPrefix(name, "pid:") || a.Transactions < 1 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// An app may be a cgroup.
func TestGuestByCgroup(t *testing.T) {
	s := serve(t, "--app-key", "cgroup")
	s.says("1", first, "put", "one")
	s.says("one", second, "get") // another user in the same cgroup
	for name := range s.apps() {
		if !strings.HasPrefix(name, "cgroup:/") {
			t.Error(name)
		}
	}
	if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.says("one", first, "get")
	s.eventually("the next monitor knows it", func() bool { return len(s.apps()) == 1 })
}

// What cannot be is refused, with the reason and the way out, and nothing is left.
func TestGuestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"fork":     {[]string{"--engine", "fork"}, "aidl3 or another protocol"},
		"retry":    {[]string{"--on-crash", "retry=1"}, "or engine fork"},
		"parallel": {[]string{"--concurrency", "parallel"}, "one instance at a time"},
		"cgroup":   {[]string{"--engine", "fork", "--binder-manager", "aidl3", "--app-key", "cgroup"}, "uid or pid"},
		"key":      {[]string{"--app-key", "connection"}, "uid, pid, cgroup"},
		"socket":   {[]string{"--socket", "/run/x.sock"}, "one gate stands before"},
		"names":    {[]string{"--binder-names", "x"}, "--binder-manager=own"},
		"manager":  {[]string{"--binder-manager", "aidl9"}, "aidl6 (16)"},
		"exits":    {[]string{"--binder-manager", "aidl3"}, "exited"},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t)
			args := append([]string{
				"serve", "--detach", "--id", s.id, "--gate", "binder", "--binder-devices", "binder", "--binder-publish", s.publish,
			}, c.flags...)
			program := []string{"--", store, "/dev/binder", "serve"}
			if name == "exits" {
				program = []string{"--", "/bin/sh", "-c", "exit 3"}
			}
			out, err := s.corsa(append(args, program...)...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%s (%v), want something about %q", out, err, c.want)
			}
		})
	}
}
