package integration

import (
	"strings"
	"testing"
)

// Services that have the same id under different roots know nothing of each other.
func TestOneIDUnderTwoRoots(t *testing.T) {
	one, two := serveRedis(t), serveRedis(t)
	a, b := one.app(2001), two.app(2001)
	a.expect("+OK", "set", "k", "one")
	b.expect("", "get", "k")
	for _, s := range []*served{one, two} {
		if found := strings.Join(s.traces(), "\n"); !strings.Contains(found, "/"+s.cgroup()) {
			t.Errorf("no cgroup %s:\n%s", s.cgroup(), found)
		}
	}
	two.ok("delete", "--force", two.id)
	if left := two.traces(); len(left) > 0 {
		t.Errorf("left of the deleted service: %q", left)
	}
	a.expect("one", "get", "k")
	one.ok("pause", one.id)
	one.ok("resume", one.id)
	a.expect("one", "get", "k")
}
