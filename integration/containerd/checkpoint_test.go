package containerd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// startCounting starts a container that counts into /count, and waits until it has.
func startCounting(t *testing.T) string {
	t.Helper()
	if world.skip == "" && world.criu.Dir == "" {
		t.Skip("there is no CRIU: make deps")
	}
	id, own := container(t)
	ok(t, words("run", "--detach", "--null-io", own, imageBusybox, id, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done")...)
	eventually(t, "it counts", func() bool { return lastCount(t, id) > 2 })
	return id
}

// lastCount is where a container is; 0 while it is being written.
func lastCount(t *testing.T, id string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(execute(t, id, nil, "cat", "/count").out, &n); err != nil {
		return 0
	}
	return n
}

// keepsCounting fails unless a container has not begun anew, and counts on.
func keepsCounting(t *testing.T, id string, from int) {
	t.Helper()
	var first int
	eventually(t, id+" counts", func() bool { first = lastCount(t, id); return first > 0 })
	if first < from {
		t.Errorf("%s counts from %d, it was at %d", id, first, from)
	}
	eventually(t, id+" counts on", func() bool { return lastCount(t, id) > first })
}

func TestCheckpointOfATask(t *testing.T) {
	id := startCounting(t)
	image := filepath.Join(t.TempDir(), "image")
	ok(t, "task", "checkpoint", "--image-path", image, id)
	if _, err := os.Stat(filepath.Join(image, "inventory.img")); err != nil {
		t.Error(err)
	}
	if got := status(t, id); got != "RUNNING" {
		t.Errorf("status %q", got)
	}
	keepsCounting(t, id, 3)
	ok(t, "task", "checkpoint", "--exit", "--image-path", image+"-2", id)
	eventually(t, "it is stopped", func() bool { return status(t, id) == "STOPPED" })
}

// Of one checkpoint that containerd keeps as an image come two containers, one after the other: ctr gives them the cgroup of
// the one that it was made of.
func TestRestoreTwice(t *testing.T) {
	id := startCounting(t)
	image := "localhost/" + world.namespace + ":checkpoint"
	ok(t, "container", "checkpoint", "--rw", "--image", "--task", id, image)
	t.Cleanup(func() { ok(t, "image", "rm", image) })
	remove(t, id)
	for _, suffix := range []string{"-a", "-b"} {
		restore(t, id+suffix, image)
		keepsCounting(t, id+suffix, 3)
		remove(t, id+suffix)
	}
}

// restore makes a container of an image with a checkpoint. It is removed at the end of the test, if it is still there.
func restore(t *testing.T, id, image string) {
	t.Helper()
	cmd := ctr("container", "restore", "--rw", "--live", id, image)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}) // ctr stays until the container ends
	go func() {
		defer close(ended)
		_ = cmd.Wait() // 137
	}()
	t.Cleanup(func() {
		remove(t, id)
		select {
		case <-ended:
		case <-time.After(deadline):
			t.Errorf("ctr container restore %s does not end: %s", id, out.String())
		}
	})
	eventually(t, id+" runs", func() bool { return status(t, id) == "RUNNING" })
}
