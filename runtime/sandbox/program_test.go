package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A program that cannot be executed is an error of Create, in the same words with and without the reaper.
func TestMissingProgramIsAnErrorOfCreate(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  uint32
		want string
	}{
		{"nope", 0, `exec: "nope": executable file not found in $PATH`},
		{"/bin/nope", 0, `exec: "/bin/nope": stat /bin/nope: no such file or directory`},
		{"/etc", 0, `exec: "/etc": is a directory`},
		{"/etc/data", 0, `exec: "/etc/data": permission denied`},
		{"/etc/private", 1000, `exec: "/etc/private": permission denied`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, spec := bundle(t, c.name)
			spec.Process.User.UID = c.uid
			for name, mode := range map[string]os.FileMode{"data": 0o644, "private": 0o700} {
				if err := os.WriteFile(filepath.Join(dir, "rootfs/etc", name), nil, mode); err != nil {
					t.Fatal(err)
				}
			}
			for _, reaper := range []bool{false, true} {
				root := t.TempDir()
				_, err := Create(context.Background(), Options{Root: root, ID: testID(t), Bundle: dir, Spec: spec, Reaper: reaper})
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("reaper=%v: got %v, want %s", reaper, err, c.want)
				}
				var lookup *exec.Error
				if reaper && !errors.As(err, &lookup) {
					t.Errorf("%v is not an *exec.Error", err)
				}
				assertNothingLeft(t, root, testID(t))
			}
		})
	}
}

// assertNothingLeft checks that the container's state directory and its cgroups are gone.
func assertNothingLeft(t *testing.T, root, id string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + id, "/sys/fs/cgroup/" + id} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, dirs...)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The program is looked up where the container sees it: through absolute links and in mounts.
func TestProgramIsFoundThroughLinksAndMounts(t *testing.T) {
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	script := []byte("#!/bin/sh\necho $0\n")
	if err := os.WriteFile(filepath.Join(outside, "mounted"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, spec := bundle(t, "linked")
	if err := os.Mkdir(filepath.Join(dir, "rootfs/opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/opt/mounted", filepath.Join(dir, "rootfs/bin/linked")); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/opt", Type: "bind", Source: outside, Options: []string{"rbind", "ro"}})
	spec.Process.User.UID = 1000
	stdout, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: true})
	if stdout != "/bin/linked\n" || code != 0 {
		t.Errorf("got %q, %d; stderr %q", stdout, code, stderr)
	}
}

func TestRelativeProgramAndLaterPATH(t *testing.T) {
	dir, spec := bundle(t, "./prog")
	if err := os.WriteFile(filepath.Join(dir, "rootfs/tmp/prog"), []byte("#!/bin/sh\necho $0 $PATH\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Process.Cwd = "/tmp"
	spec.Process.Env = []string{"PATH=/nowhere", "PATH=/bin"}
	stdout, stderr, _ := output(t, Options{Bundle: dir, Spec: spec, Reaper: true})
	if !strings.HasSuffix(stdout, "prog /bin\n") {
		t.Errorf("got %q; stderr %q", stdout, stderr)
	}
}
