package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContainerGoesOnFromItsImage(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("dump"), d.bundle(counter, nil)
	d.start(id, bundle)

	d.ok("checkpoint", "--leave-running", "--image-path", d.image("running"), id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--image-path", d.image("final"), id)
	if list := d.ok("list", "-q"); strings.Contains(list, id) {
		t.Errorf("the container is there after its checkpoint: %s", list)
	}
	last := d.count(bundle)

	pidFile := filepath.Join(d.dir, "pid")
	d.mustDetach("restore", "--detach", "--image-path", d.image("final"), "--bundle", bundle, "--pid-file", pidFile, id)
	if from := d.countsOn(bundle); from < last {
		t.Errorf("it counts on from %d, the dump was at %d", from, last)
	}
	if pid, err := os.ReadFile(pidFile); err != nil || !strings.Contains(d.ok("state", id), string(pid)) {
		t.Errorf("pid file: %q, %v; state %s", pid, err, d.ok("state", id))
	}
	if out := d.ok("exec", id, "/bin/echo", "inside"); out != "inside\n" {
		t.Errorf("exec in what was restored says %q", out)
	}
	d.ok("delete", "--force", id)
	if left := leftovers(t, id); left != nil {
		t.Errorf("left: %v", left)
	}
}
