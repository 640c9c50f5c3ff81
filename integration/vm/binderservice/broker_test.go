package binderservice_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// With the fork engine, which needs no module, the monitor passes transactions on.
func TestGuestBroker(t *testing.T) {
	s := serveAs(t, "/dev/binder#store", "--engine", "fork", "--binder-manager", "aidl3", "--binder-names", "store")
	s.says("1", first, "put", "one")
	s.says("1", second, "put", "two")
	s.must("checkpoint", "--app", "2001", "--tag", "first", s.id)
	s.says("2", first, "put", "more")
	s.says("5", first, "callback", "5")
	s.says("20", second, "fill", "20")
	s.fails("", first, "crash")
	s.says("one", first, "get")
	s.says("two", second, "get")
	s.says("2", first, "put", "more")
	s.must("restore", "--app", "2001", "--to", "base", s.id)
	s.says("", first, "get")
	s.must("restore", "--app", "2001", "--to", "first", s.id)
	if a := s.apps()["uid:2001"]; a.Path != "broker" || a.Crashes != 1 || a.Checkpoints != 1 {
		t.Errorf("%+v", a)
	}

	// Its names come back with the next monitor, and what apps had is still there.
	old := s.monitor()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventuallySays("one", first, "get")
	s.says("two", second, "get")
	s.says("1", third, "put", "three")
	s.fails("", first, "crash")
	s.says("one", first, "get")
}

// A request that died with its instance is delivered again.
func TestGuestBrokerRetry(t *testing.T) {
	s := serveAs(t, "/dev/binder#store", "--engine", "fork", "--binder-manager", "aidl3", "--on-crash", "retry=1", "--concurrency", "parallel")
	s.says("1", first, "put", "one")
	s.fails("", first, "crash") // twice
	s.says("1", second, "put", "two")
	if a := s.apps()["uid:2001"]; a.Crashes != 2 {
		t.Errorf("%+v", a)
	}
}
