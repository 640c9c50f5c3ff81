package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slept is how often the main thread of a process has gone to sleep.
func slept(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// redis does its periodic work ten times a second: with dormant-timers also in the instances of apps that do nothing while
// others' run, not more often than was asked for, and by default not at all.
func TestDormantTimers(t *testing.T) {
	for _, c := range []struct {
		policy      string
		least, most int // turns in two seconds, each of them a few times to sleep
	}{{"off", 0, 0}, {"on", 8, 1000}, {"1s", 1, 20}} {
		t.Run(c.policy, func(t *testing.T) {
			s := serveRedis(t, "--path", "proxied", "--dormant-timers", c.policy)
			a, b := s.app(2001), s.app(2002)
			a.expect("+OK", "set", "k", "a")
			b.expect("+OK", "set", "k", "b")
			pid := s.apps()["uid:2001"].PID
			time.Sleep(100 * time.Millisecond)
			before := slept(t, pid)
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
				b.expect("b", "get", "k") // else a's instance would run on once it does
			}
			if n := slept(t, pid) - before; n < c.least || n > c.most {
				t.Errorf("a's instance went to sleep %d times, want %d to %d", n, c.least, c.most)
			}
			a.expect("a", "get", "k")
			s.ok("delete", "--force", s.id)
		})
	}
}
