package sandbox

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestMain(m *testing.M) {
	Init()
	if dir := os.Getenv(strayMainThread); dir != "" {
		listMountsBesideStrayMainThread(dir)
	}
	os.Exit(m.Run())
}

// deadline is how long a test waits for something that has to happen at once. Reaching it is a failure, never a
// measurement.
const deadline = 20 * time.Second

// needRoot skips a test that makes containers. As root it never skips.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers with a cgroup")
	}
}

// busyboxRoot makes a root file system with busybox as its only program and every applet linked.
func busyboxRoot(t *testing.T, dir string) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is needed (make deps installs busybox-static): ", err)
	}
	for _, d := range []string{"bin", "proc", "dev", "sys", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// bundle is a busybox bundle whose program is args.
func bundle(t *testing.T, args ...string) (dir string, spec *specs.Spec) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	busyboxRoot(t, filepath.Join(dir, "rootfs"))
	spec = specconv.Example()
	spec.Process.Terminal = false
	spec.Process.Args = args
	spec.Process.Env = []string{"PATH=/sbin:/bin", "TERM=xterm"}
	spec.Root.Readonly = false
	return dir, spec
}

// testID is unique among concurrent test processes: cgroups are named after it.
func testID(t *testing.T) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
	return fmt.Sprintf("corsa-test-%s-%d", name, os.Getpid())
}

// create makes a container that is deleted at the end of the test.
func create(t *testing.T, o Options) *Sandbox {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	if o.ID == "" {
		o.ID = testID(t)
	}
	s, err := Create(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(s.Dir()); err != nil {
			return
		}
		if err := s.Delete(context.Background(), true); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

// output runs the container to its end and returns what it wrote and its exit code.
func output(t *testing.T, o Options) (stdout, stderr string, code int) {
	t.Helper()
	o.Stdio = Stdio{Pipes: true}
	s := create(t, o)
	p := s.Init()
	if err := p.Pipes().Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	errc := make(chan string, 1)
	go func() { errc <- drain(p.Pipes().Stderr) }()
	stdout = drain(p.Pipes().Stdout)
	stderr = <-errc
	code, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return stdout, stderr, code
}

func drain(r io.ReadCloser) string {
	data, err := io.ReadAll(r)
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestProgramRunsAndExitCodeIsReturned(t *testing.T) {
	for _, reaper := range []bool{false, true} {
		t.Run(fmt.Sprintf("reaper=%v", reaper), func(t *testing.T) {
			dir, spec := bundle(t, "sh", "-c", "echo out; echo err >&2; exit 7")
			stdout, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: reaper})
			if stdout != "out\n" || stderr != "err\n" || code != 7 {
				t.Errorf("got %q, %q, %d; want out, err, 7", stdout, stderr, code)
			}
		})
	}
}
