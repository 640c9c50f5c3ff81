package integration

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/service"
)

func (s *served) spares() service.SparesView {
	s.t.Helper()
	text, code := s.control("/v1/service")
	var v service.ServiceView
	if err := json.Unmarshal([]byte(text), &v); err != nil || code != 200 {
		s.t.Fatalf("%d %s: %v", code, text, err)
	}
	return v.Spares
}

// A crash and a restore take the instance that is ready, under the connections that the app has, and the app finds the
// state of its checkpoint.
func TestSparesServe(t *testing.T) {
	s := serveRedis(t)
	eventually(t, "a spare of the base", func() bool { return s.spares().Base == 1 })
	a, passing := s.app(2001), s.app(2001)
	eventually(t, "a new app takes the spare", func() bool { a.expect("+PONG", "ping"); return s.spares().Taken == 1 })
	a.expect("+OK", "set", "k", "kept")
	a.expect("+OK", "select", "3")
	passing.expect("+PONG", "ping")
	s.checkpoint(2001)
	if err := passing.conn.Close(); err != nil { // the spare still knows it
		t.Fatal(err)
	}
	for n := range uint64(4) {
		eventually(t, "a spare of the checkpoint", func() bool { return s.apps()["uid:2001"].Spare })
		later := s.app(2001)
		later.expect("+OK", "set", "k", "lost")
		if n%2 == 0 {
			s.kill(s.apps()["uid:2001"].PID)
			eventually(t, "the crash is noticed", func() bool { return s.apps()["uid:2001"].Crashes == n/2+1 })
		} else {
			s.ok("restore", "--app", "2001", s.id)
		}
		a.expect("", "get", "k") // in database 3, as at the checkpoint
		a.expect("+OK", "select", "0")
		a.expect("kept", "get", "k")
		later.expect("kept", "get", "k")
		if taken := s.spares().Taken; taken != n+2 {
			t.Errorf("round %d: %d spares were taken", n, taken)
		}
		if err := later.conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.apps()); n != 1 {
		t.Errorf("%d apps", n)
	}
}

// The spares of a monitor that dies go with it, and the next one makes its own.
func TestSparesDieWithTheirMonitor(t *testing.T) {
	for _, path := range []string{"proxied", "connect"} { // where their listeners are depends on that
		t.Run(path, func(t *testing.T) { sparesDie(t, path) })
	}
}

func sparesDie(t *testing.T, path string) {
	s := serveRedis(t, "--path", path)
	a := s.app(2001)
	a.expect("+OK", "set", "k", "v")
	s.checkpoint(2001)
	complete := func() bool { v := s.spares(); return v.Base == 1 && v.Apps == 1 }
	eventually(t, "spares", complete)
	listeners := func() int {
		beside, err := filepath.Glob(filepath.Join(filepath.Dir(s.socket), ".corsa-*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(s.sockets()) + len(beside)
	}
	processes, sockets := s.processes(), listeners()
	s.kill(s.monitor())
	eventually(t, "spares of the next monitor", func() bool { s.ok("apps", s.id); return complete() })
	eventually(t, "what the last monitor had ready is gone", func() bool {
		return s.processes() == processes && listeners() == sockets
	})
	b := s.app(2001)
	b.expect("v", "get", "k")
	s.kill(s.apps()["uid:2001"].PID)
	eventually(t, "the app goes on", func() bool { v, err := s.app(2001).ask("get", "k"); return err == nil && v == "v" })
	s.ok("delete", "--force", s.id)
}

func TestNoSparesByPolicy(t *testing.T) {
	s := serveRedis(t, "--spares", "0")
	a := s.app(2001)
	a.expect("+OK", "set", "k", "v")
	s.checkpoint(2001)
	before := s.processes()
	time.Sleep(200 * time.Millisecond)
	if v, after := s.spares(), s.processes(); v != (service.SparesView{}) || after != before {
		t.Errorf("%+v, %d processes, then %d", v, before, after)
	}
}
