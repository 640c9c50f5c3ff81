package enginetest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// reachable asserts that the listeners of instances stand where the target says, under names that nobody can find out, and let
// in nobody but root until somebody changes that.
func (s *suite) reachable(t *testing.T) {
	pr := s.start(t, mustProgram(t, "state", "loop-epoll-lt"), launch{})
	pr.settle(t)
	target, e := pr.target(t), s.newEngine(t)
	dir := pr.engineDir(t)
	for range target.Listeners {
		target.Dirs = append(target.Dirs, dir)
	}
	service, err := e.Adopt(context.Background(), target)
	if err != nil {
		t.Fatal(err)
	}
	sub := &subject{t: t, process: pr, service: service, dir: target.Dir, exclusive: engine.IsExclusive(e)}
	t.Cleanup(sub.destroy)
	a, b := sub.branch(sub.base()), sub.branch(sub.base())
	if _, ok := a.in.(engine.Reachable); !ok {
		t.Logf("apps cannot connect to instances of the engine %s", e.Name())
		return
	}
	first, second := a.address(dir), b.address(dir)
	if first == second {
		t.Errorf("two instances have one listener, %s", first)
	}
	a.activate()
	id := a.dial(0)
	a.mutate(id, 7)
	a.park()
	img := a.checkpoint()
	c := sub.branch(img, id)
	if third := c.address(dir); third == first {
		t.Errorf("a restored instance has the listener of the first, %s", third)
	}
	c.activate()
	c.verify(id)
	c.verify(c.dial(0))
	again, err := sub.service.OpenInstance(context.Background(), b.in.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if got := again.(engine.Reachable).Addresses()[0].Address; got != second {
		t.Errorf("opened again, the listener is %s, and was %s", got, second)
	}
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	a.kill()
	c.kill()
	img.discard(t)
	for _, dir := range []string{dir, target.Dir} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// address is that of the first listener. All have to be in dir.
func (a *app) address(dir string) string {
	a.t.Helper()
	list := a.in.(engine.Reachable).Addresses()
	if len(list) == 0 {
		a.t.Fatal("no listeners")
	}
	for _, l := range list {
		if l.Network != "unix" || filepath.Dir(l.Address) != dir {
			a.t.Fatalf("listener %v, want one in %s", l, dir)
		}
	}
	path := list[0].Address
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != fs.ModeSocket|0o600 {
		a.t.Errorf("%s: mode %v, %v", path, fi.Mode(), err)
	}
	known, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil || strings.Contains(string(known), path) || !strings.Contains(string(known), dir) {
		a.t.Errorf("everybody can read the name of the listener, or it has none: %v", err)
	}
	return path
}
