package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/service"
)

// view is what the control API says of the service.
func (s *served) view() service.ServiceView {
	s.t.Helper()
	text, code := s.control("/v1/service")
	var v service.ServiceView
	if err := json.Unmarshal([]byte(text), &v); err != nil || code != 200 {
		s.t.Fatalf("%d %s: %v", code, text, err)
	}
	return v
}

// states counts the apps by their state.
func (s *served) states() map[string]int {
	s.t.Helper()
	n := map[string]int{}
	for _, a := range s.apps() {
		n[a.State]++
	}
	return n
}

// live is how many apps have an instance.
func (s *served) live() int {
	n := s.states()
	return n["active"] + n["dormant"]
}

// Apps that were idle longest lose their instances and nothing else: what they stored, in the database that their open
// connections have selected, is there when they ask again. It does not matter how their bytes travel.
func TestEvictedAppsComeBack(t *testing.T) {
	for name, flags := range map[string][]string{
		"proxied": {"--path", "proxied"}, "handover": {"--path", "handover"}, "connect": {"--path", "connect"},
		"parallel": {"--path", "handover", "--concurrency", "parallel"},
	} {
		t.Run(name, func(t *testing.T) { evictAndReturn(t, flags) })
	}
}

func evictAndReturn(t *testing.T, flags []string) {
	const apps, most = 8, 3
	s := serveRedis(t, append([]string{"--instances", fmt.Sprint(most)}, flags...)...)
	clients := make([]*client, apps)
	for i := range clients {
		c := s.app(3000 + i)
		c.expect("+OK", "select", "3")
		c.expect("+OK", "set", "k", fmt.Sprint("first ", i))
		clients[i] = c
		if i == 1 {
			time.Sleep(time.Second) // the first one sleeps: the others are idle for less long
		}
	}
	settled := func() bool { return s.live() <= most && s.states()["evicted"] >= apps-most }
	eventually(t, "the budget is kept", settled)
	if a := s.apps()["uid:3000"]; a.State != "evicted" || a.Checkpoints == 0 || a.PID != 0 {
		t.Errorf("the app that was idle longest is %+v", a)
	}
	for round := range 3 {
		for i, c := range clients {
			c.expect(fmt.Sprintf("%s %d", []string{"first", "again 0", "again 1"}[round], i), "get", "k")
			c.expect("+OK", "set", "k", fmt.Sprintf("again %d %d", round, i))
			other := s.app(3000 + i)
			other.expect("", "get", "k") // a connection of its own, with database 0
			if err := other.conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the budget is kept again", settled)
	}
	text, _ := s.control("/metrics")
	if !strings.Contains(text, `corsa_evictions_total{of="instance"}`) || !strings.Contains(text, `corsa_instances{state="evicted"}`) {
		t.Errorf("metrics do not count evictions:\n%s", text)
	}
	if !strings.Contains(s.events(), `"type":"evicted","app":"uid:3000"`) {
		t.Error("no event tells of an eviction")
	}
	// What closes while the app is evicted, and what asks next, do not disturb each other.
	if err := clients[0].conn.Close(); err != nil {
		t.Fatal(err)
	}
	again := s.app(3000)
	again.expect("+OK", "select", "3")
	again.expect("again 2 0", "get", "k")
}

// A monitor that dies in the middle of an eviction leaves every app with what it had.
func TestEvictionSurvivesMonitor(t *testing.T) {
	const apps = 10
	s := serveRedis(t, "--instances", "2", "--path", "proxied")
	stored := make([]int, apps)
	for round := range 12 {
		for i := range stored {
			c := s.app(3000 + i)
			want := ""
			if stored[i] > 0 {
				want = fmt.Sprint(stored[i])
			}
			c.expect(want, "get", "n")
			stored[i]++
			c.expect(fmt.Sprint(":", stored[i]), "incr", "n")
			if err := c.conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
		// Evictions go on for some time: at another point of them each time.
		time.Sleep(time.Duration(round) * 13 * time.Millisecond)
		s.kill(s.monitor())
		eventually(t, "the next monitor", func() bool { _, _, code := s.run("", "apps", s.id); return code == 0 })
	}
	for i := range stored {
		s.app(3000+i).expect(fmt.Sprint(stored[i]), "get", "n")
	}
	eventually(t, "the budget is kept", func() bool { return s.live() <= 2 })
}

// What the service holds comes down to its budget: old checkpoints go, but tagged ones and those that apps are at stay.
func TestMemoryBudget(t *testing.T) {
	const budget = 48 << 20
	s := serveRedis(t, "--memory-budget", fmt.Sprint(budget), "--history", "100")
	const apps, size = 4, 3 << 20
	value := func(i, n int) string { return strings.Repeat(fmt.Sprintf("%d.%d ", i, n), size/4)[:size] }
	for n := range 5 {
		for i := range apps {
			c := s.app(3000 + i)
			c.expect("+OK", "set", "k", value(i, n))
			if n == 0 {
				s.checkpoint(3000+i, "--tag", "first")
			} else {
				s.checkpoint(3000 + i)
			}
			if err := c.conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() {
		if t.Failed() {
			t.Logf("%+v, %+v", s.view().Budget, s.apps())
		}
	}()
	eventually(t, "the budget is kept", func() bool { b := s.view().Budget; return b != nil && b.Used <= budget && !b.Exceeded })
	for i := range apps {
		if n := s.apps()[fmt.Sprint("uid:", 3000+i)].Checkpoints; n < 2 || n > 5 {
			t.Errorf("app %d has %d checkpoints", i, n)
		}
		c := s.app(3000 + i)
		c.expect(value(i, 4), "get", "k")
		s.ok("restore", "--app", fmt.Sprint(3000+i), "--to", "first", s.id)
		c.expect(value(i, 0), "get", "k")
	}
}
