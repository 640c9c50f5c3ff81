package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// restoreAll restores image as all ids at the same time, each with its bundle.
func (d *dumpable) restoreAll(image string, ids, bundles []string) {
	d.t.Helper()
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			sub := &dumpable{d.corsa, filepath.Join(d.dir, ids[i])}
			if err := os.Mkdir(sub.dir, 0o700); err != nil {
				d.t.Error(err)
				return
			}
			if stderr, code := sub.detached("restore", "--detach", "--image-path", image, "--bundle", bundles[i], ids[i]); code != 0 {
				d.t.Errorf("restore %s: exit code %d: %s", ids[i], code, stderr)
			}
		})
	}
	all.Wait()
}

// network is the network namespace of a container's first process.
func (d *dumpable) network(id string) string {
	d.t.Helper()
	var state struct{ PID int }
	if err := json.Unmarshal([]byte(d.ok("state", id)), &state); err != nil {
		d.t.Fatal(err)
	}
	ns, err := os.Readlink("/proc/" + strconv.Itoa(state.PID) + "/ns/net")
	if err != nil {
		d.t.Fatal(err)
	}
	return ns
}

func TestManyFromOneImage(t *testing.T) {
	const n = 32
	d := newDumpable(t)
	id, bundle := unique("one"), d.bundle(counter, nil)
	d.start(id, bundle)
	img := d.image("img")
	d.ok("checkpoint", "--image-path", img, id)
	last, before := d.count(bundle), tree(t, img)

	var ids, bundles []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s-%d", id, i))
		copied := filepath.Join(d.dir, fmt.Sprint("bundle", i))
		copyTree(t, bundle, copied)
		bundles = append(bundles, copied)
	}
	d.restoreAll(img, ids, bundles)
	networks := map[string]string{}
	for i, id := range ids {
		if from := d.countsOn(bundles[i]); from < last {
			t.Errorf("%s counts on from %d, the image is from %d", id, from, last)
		}
		ns := d.network(id)
		if other := networks[ns]; other != "" {
			t.Errorf("%s and %s have the same network", id, other)
		}
		networks[ns] = id
	}
	if d.count(bundle) != last {
		t.Error("something counts in the root of the image's container")
	}
	for _, id := range ids {
		d.ok("delete", "--force", id)
		d.nothingLeft(id)
	}
	if after := tree(t, img); after != before {
		t.Errorf("the image was changed: before\n%s\nafter\n%s", before, after)
	}
}

// A root that is read-only can be that of all.
func TestManyFromOneRoot(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("root"), d.bundle(counter, func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/state", Type: "tmpfs", Source: "tmpfs"})
	})
	if err := os.Remove(filepath.Join(bundle, "rootfs/tmp")); err != nil { // which CRIU would like to have
		t.Fatal(err)
	}
	inside := func(id string) int {
		n, _ := strconv.Atoi(strings.TrimSpace(d.ok("exec", id, "/bin/readlink", "/state/n")))
		return n
	}
	d.mustDetach("run", "--detach", "--bundle", bundle, id)
	eventually(t, "it counts", func() bool { return inside(id) > 3 })
	d.ok("checkpoint", "--image-path", d.image("img"), id)
	ids := []string{id + "-a", id + "-b", id + "-c", id + "-d"}
	d.restoreAll(d.image("img"), ids, []string{bundle, bundle, bundle, bundle})
	for _, id := range ids {
		from := inside(id)
		eventually(t, "it counts on", func() bool { return inside(id) > max(from, 3) })
	}
}

// A dump that is killed leaves the container running and no image; a restore leaves nothing.
func TestKilledDumpAndRestore(t *testing.T) {
	const rounds = 12
	d := newDumpable(t)
	id, bundle := unique("kill"), d.bundle(counter, nil)
	d.start(id, bundle)
	img := d.image("img")
	start := time.Now()
	d.ok("checkpoint", "--leave-running", "--image-path", img, id)
	dump := time.Since(start)

	for i := range rounds {
		if i%3 == 0 {
			d.ok("checkpoint", "--leave-running", "--image-path", img, id)
		}
		broken := d.image(fmt.Sprint("broken", i))
		d.killed(dump*time.Duration(i+1)/rounds, i%2 == 0, "checkpoint", "--leave-running", "--image-path", broken, id)
		d.countsOn(bundle)
		if state := d.ok("state", id); !strings.Contains(state, `"running"`) {
			t.Fatalf("after a killed checkpoint the container is %s", state)
		}
	}
	d.ok("checkpoint", "--image-path", img, id)
	d.nothingLeft(id)

	before := tree(t, img)
	start = time.Now()
	d.mustDetach("restore", "--detach", "--image-path", img, "--bundle", bundle, id)
	restore := time.Since(start)
	d.ok("delete", "--force", id)
	for i := range rounds {
		other := fmt.Sprintf("%s-%d", id, i)
		args := []string{"restore", "--detach", "--work-path", d.image("work"), "--image-path", img, "--bundle", bundle, other}
		if d.killed(restore*time.Duration(i+1)/rounds, i%2 == 0, args...) {
			eventually(t, "nothing is left of "+other, func() bool {
				_, err := os.Stat(filepath.Join(d.root, other))
				return errors.Is(err, fs.ErrNotExist) && leftovers(t, other) == nil
			})
		} else {
			d.ok("delete", "--force", other)
		}
		d.nothingLeft(other)
	}
	if after := tree(t, img); after != before {
		t.Errorf("the image was changed: before\n%s\nafter\n%s", before, after)
	}
	if left, err := filepath.Glob(filepath.Join(d.image("work"), ".criu*")); err != nil || left != nil {
		t.Errorf("left by CRIU: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(bundle, "rootfs/bin/busybox")); err != nil {
		t.Error(err)
	}
	d.mustDetach("restore", "--detach", "--image-path", img, "--bundle", bundle, id)
	d.countsOn(bundle)
}

// killed starts corsa and kills it, or its process group, after that long. It returns false if it had ended by itself.
func (d *dumpable) killed(after time.Duration, group bool, args ...string) bool {
	d.t.Helper()
	cmd := d.command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	time.Sleep(after)
	pid := cmd.Process.Pid
	if group {
		pid = -pid
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	err := cmd.Wait()
	return err != nil
}
