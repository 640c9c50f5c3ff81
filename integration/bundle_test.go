package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// busyboxBundle makes a bundle by `corsa spec` whose root has busybox and all its applets and whose program is args.
func busyboxBundle(t *testing.T, c *corsa, change func(*specs.Spec), args ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	bin := filepath.Join(dir, "rootfs/bin")
	for _, d := range []string{"bin", "proc", "dev", "sys", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is needed (make deps installs busybox-static): ", err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for a := range strings.FieldsSeq(string(applets)) {
		if a == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(bin, a)); err != nil {
			t.Fatal(err)
		}
	}
	c.ok("spec", "--bundle", dir)
	editSpec(t, dir, func(s *specs.Spec) {
		s.Process.Terminal = false
		s.Process.Args = args
		s.Root.Readonly = false
		if change != nil {
			change(s)
		}
	})
	return dir
}

// editSpec changes config.json of a bundle.
func editSpec(t *testing.T, dir string, change func(*specs.Spec)) {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	change(&s)
	if data, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// containerID is unique among concurrent test processes: cgroups are named after it.
func containerID(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("corsa-it-%s-%d", strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()), os.Getpid())
}
