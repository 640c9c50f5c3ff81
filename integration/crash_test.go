package integration

import (
	"io"
	"strings"
	"testing"
)

// The connection that carries the crashing request goes on too, whether a checkpoint knows it or not.
func TestCrashReplyKeepsTheConnection(t *testing.T) {
	s := serveRedis(t, "--crash-reply", `-ERR crashed\r\n`)
	a, b := s.app(2001), s.app(2002)
	a.expect("-ERR crashed", "debug", "segfault")
	a.expect("+OK", "set", "k", "kept")
	a.expect("+OK", "select", "3")
	s.checkpoint(2001)
	for range 2 {
		a.expect("+OK", "set", "k", "lost")
		b.expect("", "get", "k")
		a.expect("-ERR crashed", "debug", "segfault")
		a.expect("", "get", "k") // in database 3, as at the checkpoint
		a.expect("+OK", "select", "0")
		a.expect("kept", "get", "k")
	}
}

// Every request of a quarantined app is answered, however fast it comes, and its connection ends then.
func TestQuarantinedAppIsAnswered(t *testing.T) {
	s := serveRedis(t, "--crash-reply", `-ERR crashed\r\n`)
	a, idle := s.app(2001), s.app(2001)
	idle.expect("+PONG", "ping")
	for range 5 {
		a.expect("-ERR crashed", "debug", "segfault")
	}
	eventually(t, "quarantine", func() bool { return s.apps()["uid:2001"].State == "quarantined" })
	clients := []*client{idle}
	for range 20 {
		clients = append(clients, s.app(2001))
	}
	for _, c := range clients {
		if _, err := io.WriteString(c.conn, strings.Repeat("PING\r\n", 100)); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(c.r)
		if string(all) != "-ERR crashed\r\n" {
			t.Errorf("got %q, %v", all, err)
		}
	}
	s.app(2002).expect("+PONG", "ping")
	waiting := s.app(2001)
	s.ok("restore", "--app", "2001", s.id)
	waiting.expect("+PONG", "ping")
}
