package integration

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// counter counts in its own root, so that one sees whether it goes on and from where.
const counter = `n=0; while :; do n=$((n+1)); ` + countShell + `; sleep 0.02; done`

// countShell makes a link to $n. A file could be open in a checkpoint, and the container, going on, would rename it.
const countShell = `ln -sfn $n /state/new; mv /state/new /state/n`

// dumpable is a corsa whose containers CRIU can dump.
type dumpable struct {
	*corsa
	dir string
}

// newDumpable skips where there is no CRIU.
func newDumpable(t *testing.T) *dumpable {
	t.Helper()
	c := newCorsa(t)
	if os.Getenv("CORSA_CRIU") == "" {
		// The binary under test may be elsewhere than the one that make deps serves.
		if built, err := filepath.Abs("../build/criu/bin/criu"); err == nil {
			if _, err := os.Stat(built); err == nil {
				t.Setenv("CORSA_CRIU", built)
			}
		}
	}
	if result, detail := criuProbe(t, corsaBin, "criu"); result != "yes" {
		t.Skipf("CRIU is needed (make deps provides one): %s, %s", result, detail)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir) // logs of restores that fail stay
	return &dumpable{c, dir}
}

// bundle makes one whose program is a shell script; /state is a directory of its root.
func (d *dumpable) bundle(script string, change func(*specs.Spec)) string {
	d.t.Helper()
	b := busyboxBundle(d.t, d.corsa, change, "/bin/sh", "-c", script)
	if err := os.Mkdir(filepath.Join(b, "rootfs/state"), 0o777); err != nil {
		d.t.Fatal(err)
	}
	return b
}

// detached runs corsa, which starts something that stays, with /dev/null as its standard streams.
func (d *dumpable) detached(args ...string) (stderr string, code int) {
	d.t.Helper()
	cmd := d.command(args...)
	messages := filepath.Join(d.dir, "messages")
	// Not a pipe: it would become a descriptor of what is started.
	f, err := os.Create(messages)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd.Args = append([]string{cmd.Args[0], "--log", f.Name()}, cmd.Args[1:]...)
	err = errors.Join(cmd.Run(), f.Close())
	text, rerr := os.ReadFile(messages)
	if cmd.ProcessState == nil || rerr != nil {
		d.t.Fatal(err, rerr)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// start runs a container of bundle and waits for it to count.
func (d *dumpable) start(id, bundle string) {
	d.t.Helper()
	d.mustDetach("run", "--detach", "--bundle", bundle, id)
	d.countsOn(bundle)
}

func (d *dumpable) mustDetach(args ...string) {
	d.t.Helper()
	if stderr, code := d.detached(args...); code != 0 {
		d.t.Fatalf("corsa %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
}

// image is a path for one.
func (d *dumpable) image(name string) string { return filepath.Join(d.dir, name) }

// count is what the container of bundle has counted to.
func (d *dumpable) count(bundle string) int {
	d.t.Helper()
	text, err := os.Readlink(filepath.Join(bundle, "rootfs/state/n"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	n, nerr := strconv.Atoi(text)
	if err = errors.Join(err, nerr); err != nil {
		d.t.Fatal(err)
	}
	return n
}

// countsOn waits for the container of bundle to count, and returns from where.
func (d *dumpable) countsOn(bundle string) int {
	d.t.Helper()
	from := d.count(bundle)
	eventually(d.t, "the container counts on", func() bool { return d.count(bundle) > from })
	return from
}

// leftovers are processes, mounts and cgroups of container id.
func leftovers(t *testing.T, id string) []string {
	t.Helper()
	found, err := filepath.Glob("/sys/fs/cgroup/*/" + id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/" + id); !errors.Is(err, fs.ErrNotExist) {
		found = append(found, "/sys/fs/cgroup/"+id)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(mounts) {
		if bytes.Contains(line, []byte("/"+id+"/criu-root")) {
			found = append(found, string(line))
		}
	}
	return found
}

// copyTree copies a root with its links.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// unique is an id that no other test has: cgroups are named by it.
func unique(name string) string { return name + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36) }
