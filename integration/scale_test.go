package integration

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
)

// manyApps is how many apps TestManyApps has, unless CORSA_SCALE_APPS says otherwise.
const manyApps = 200

// So many apps of one redis each find what they stored, in whatever order they ask, and all of them are listed.
func TestManyApps(t *testing.T) {
	n := manyApps
	if text := os.Getenv("CORSA_SCALE_APPS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("CORSA_SCALE_APPS: %v", err)
		}
	}
	s := serveRedis(t, "--app-key", "connection")
	before := s.processes()
	clients := make([]*client, n)
	for i := range clients {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // it may be closed below
		clients[i] = newClient(t, conn)
		clients[i].expect("+OK", "set", "k", fmt.Sprint(i))
	}
	for round := range 3 {
		for i := range clients {
			i = (i*7 + round) % n // another order each time
			clients[i].expect(fmt.Sprint(i), "get", "k")
		}
	}
	apps := s.apps()
	if len(apps) != n {
		t.Errorf("%d apps are listed, want %d", len(apps), n)
	}
	pids := map[int]bool{}
	for _, a := range apps {
		pids[a.PID] = true
		if a.State != "dormant" && a.State != "active" || a.Memory == nil || a.Memory.Unique == 0 {
			t.Errorf("%+v", a)
		}
	}
	if len(pids) != n {
		t.Errorf("%d apps have %d instances", n, len(pids))
	}
	for _, c := range clients {
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Spares come and go.
	eventually(t, "the instances have ended with their connections", func() bool { return len(s.apps()) == 0 && s.processes() <= before+2*9 })
}
