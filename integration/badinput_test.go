package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// After each of these create and run have failed with a reason, and nothing is left.
func TestBadInput(t *testing.T) {
	k := newKilling(t)
	k.bad = k.sibling(func(*specs.Spec) {})
	good, err := os.ReadFile(filepath.Join(k.bad, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var nofile unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile); err != nil {
		t.Fatal(err)
	}
	text := func(s string) func() { return func() { k.config([]byte(s)) } }
	edit := func(f func(*specs.Spec)) func() { return func() { k.config(good); editSpec(t, k.bad, f) } }
	limit := func(typ string, hard, soft uint64) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: typ, Hard: hard, Soft: soft}} }
	}
	mount := func(m specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
	}
	for _, v := range []struct {
		name, want string
		prepare    func()
	}{
		{"no config.json", "config.json not found", func() {
			if err := os.Remove(filepath.Join(k.bad, "config.json")); err != nil {
				t.Fatal(err)
			}
		}},
		{"empty", "the file is empty", text("")},
		{"null", "must not be null", text("null")},
		{"syntax", "line 2, column 3: invalid character '}'", text("{\"root\": 1,\n  }")},
		{"truncated", "ends in the middle", text(string(good[:len(good)/2]))},
		{"text behind it", "text after the end", text(string(good) + "x")},
		{"type", "process.args must be a []string, not a string", text(strings.Replace(string(good), `"args":["sleep","1000"]`, `"args":"sleep"`, 1))},
		{"type of a number", "memory.limit must be a int64, not a string", edit(func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(4711))} })},
		{"version", `ociVersion "9.0.0" is not known`, edit(func(s *specs.Spec) { s.Version = "9.0.0" })},
		{"no process", "process must be set", edit(func(s *specs.Spec) { s.Process = nil })},
		{"no args", "process.args must name a program", edit(func(s *specs.Spec) { s.Process.Args = nil })},
		{"no cwd", "must be an absolute path", edit(func(s *specs.Spec) { s.Process.Cwd = "" })},
		{"no root", "root.path must be set", edit(func(s *specs.Spec) { s.Root = nil })},
		{"no linux", "linux must be set", edit(func(s *specs.Spec) { s.Linux = nil })},
		{"lost root", "no such file or directory", edit(func(s *specs.Spec) { s.Root.Path = "/nowhere" })},
		{"root is a file", "not a directory", edit(func(s *specs.Spec) { s.Root.Path = filepath.Join(k.bad, "config.json") })},
		{"no such program", "executable file not found in $PATH", edit(func(s *specs.Spec) { s.Process.Args = []string{"nope"} })},
		{"namespace twice", "duplicated", edit(func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		})},
		{"namespace of another kind", "failed to setns", edit(func(s *specs.Spec) {
			s.Linux.Namespaces[0] = specs.LinuxNamespace{Type: s.Linux.Namespaces[0].Type, Path: "/dev/null"}
		})},
		{"unknown limit", "RLIMIT_BOGUS", edit(limit("RLIMIT_BOGUS", 1, 1))},
		{"limit twice", "RLIMIT_CORE twice", edit(func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE"}}
		})},
		{"soft above hard", "the soft limit 9 is above the hard limit 8", edit(limit("RLIMIT_CORE", 8, 9))},
		{"more files than the kernel has", "fs.nr_open", edit(limit("RLIMIT_NOFILE", 1<<40, 1024))},
		{"lost source", "/nowhere", edit(mount(specs.Mount{Destination: "/tmp", Type: "bind", Source: "/nowhere", Options: []string{"rbind"}}))},
		{"unknown file system", "no such device", edit(mount(specs.Mount{Destination: "/tmp", Type: "bogusfs", Source: "x"}))},
		{"hook without a program", "no such file", edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/nowhere"}}}
		})},
		{"hook that fails", "exit status 3", edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}}}}
		})},
		{"hook that takes too long", "hook ran past specified timeout", edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: new(1)}}}
		})},
		{"hook inside that fails", "exit status 3", edit(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}}}}
		})},
		{"memory limit too low", "memory", edit(func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(4096))} })},
		{"seccomp", "SCMP_ACT_BOGUS", edit(func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_BOGUS"} })},
	} {
		if t.Failed() {
			return // what one has left fails all that follow
		}
		t.Run(v.name, func(t *testing.T) {
			sub := &killing{corsa: &corsa{t: t, root: k.root}, id: k.id, dir: k.dir, short: k.short, hooked: k.hooked, pidFile: k.pidFile, trees: k.trees}
			v.prepare()
			if v.name == "type of a number" {
				data, err := os.ReadFile(filepath.Join(k.bad, "config.json"))
				if err != nil {
					t.Fatal(err)
				}
				k.config([]byte(strings.Replace(string(data), "4711", `"4711"`, 1)))
			}
			sub.fails(1, v.want, "create", "-b", k.bad, k.id)
			sub.expectNothing()
			sub.fails(1, v.want, "run", "-b", k.bad, k.id)
			sub.expectNothing()
			k.config(good)
		})
	}
	if nofile.Max < 1<<20 {
		t.Run("limit above ours", func(t *testing.T) {
			edit(limit("RLIMIT_NOFILE", nofile.Max+1, 1024))()
			_, stderr, code := k.run("", "create", "-b", k.bad, k.id)
			if code == 0 {
				t.Skip("corsa has CAP_SYS_RESOURCE here")
			}
			if want := fmt.Sprintf("ask for at most %d", nofile.Max); !strings.Contains(stderr, want) || !strings.Contains(stderr, "RLIMIT_NOFILE") {
				t.Errorf("stderr %q should contain %q", stderr, want)
			}
		})
	}
	k.remove()
}

// config writes config.json of the bad bundle.
func (k *killing) config(data []byte) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.bad, "config.json"), data, 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func TestBadIDs(t *testing.T) {
	k := newKilling(t)
	for _, v := range []struct{ id, want string }{
		{"../x", "invalid container id"},
		{"", "invalid container id"},
		{".", "invalid container id"},
		{"a/b", "invalid container id"},
		{"a b", "invalid container id"},
		{strings.Repeat("x", 300), "300 characters"},
	} {
		k.fails(1, v.want, "create", "-b", k.dir, v.id)
		k.fails(1, v.want, "run", "-b", k.dir, v.id)
		if len(v.id) < 300 {
			k.fails(1, v.want, "state", v.id)
			k.fails(1, v.want, "delete", "--force", v.id)
		}
	}
	k.bring("running")
	k.fails(1, "already exists", "create", "-b", k.dir, k.id)
	k.fails(1, "already exists", "run", "-b", k.dir, k.id)
	k.expectStatus(k.id, "running")
	k.remove()
}

// list goes on with the others, and delete --force gets rid of all of it.
func TestDamagedState(t *testing.T) {
	k := newKilling(t)
	other := k.id + "-other"
	dir := k.sibling(func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + other })
	for _, damage := range []string{"", "{", "null", "{}", "[]", "\x00\x00", `{"config": {"cgroups": null}}`, "truncated"} {
		k.bring("running")
		k.quiet("run", "--detach", "-b", dir, other)
		state := filepath.Join(k.root, k.id, "state.json")
		data, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		if damage == "truncated" {
			damage = string(data[:len(data)/2])
		}
		if err := os.WriteFile(state, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, _ := k.run("", "list", "-q")
		if stdout != other+"\n" || !strings.Contains(stderr, "damaged") || !strings.Contains(stderr, k.id) {
			t.Errorf("list says %q, %q", stdout, stderr)
		}
		k.fails(1, "state.json is damaged", "state", k.id)
		k.fails(1, "delete --force", "delete", k.id)
		k.fails(1, "already exists", "create", "-b", k.dir, k.id)
		k.ok("delete", "--force", other)
		k.remove()
	}
}

// Processes of others in a cgroup, of whichever controller, are not the container's.
func TestForeignCgroupIsRefused(t *testing.T) {
	k := newKilling(t)
	tops, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	if len(tops) == 0 {
		tops = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, top := range tops {
		dir := filepath.Join(filepath.Dir(top), k.id)
		if filepath.Base(filepath.Dir(top)) == "cpuset" {
			continue // takes no process without CPUs
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			t.Error(err)
		}
		k.fails(1, "not empty", "create", "-b", k.dir, k.id)
		k.fails(1, "not empty", "run", "-b", k.dir, k.id)
		if err := cmd.Process.Signal(unix.Signal(0)); err != nil {
			t.Errorf("the process in %s: %v", dir, err)
		}
		_ = cmd.Process.Kill() // it is there
		_ = cmd.Wait()
		eventually(t, "the cgroup is empty", func() bool { return unix.Rmdir(dir) == nil })
		k.expectNothing()
	}
	k.remove()
}

func TestFullDisk(t *testing.T) {
	k := newKilling(t)
	if err := os.MkdirAll(k.root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", k.root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(k.root, "filler")
	defer func() { _ = unix.Unmount(k.root, unix.MNT_DETACH) }() // it should be gone by now
	for pages := 0; pages < 16; pages++ {
		if err := os.WriteFile(filler, make([]byte, (16-pages)*4096), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := k.run("", "run", "--detach", "-b", k.dir, k.id)
		if code != 0 && !strings.Contains(stderr, "no space left on device") {
			t.Errorf("%d pages: exit code %d, %s", pages, code, stderr)
		}
		if code == 0 {
			if pages == 0 {
				t.Error("it was not full")
			}
			k.ok("delete", "--force", k.id)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(k.root); err != nil || len(left) > 0 {
			t.Errorf("%d pages: left in the state root: %v, %v", pages, left, err)
		}
		if code == 0 {
			break
		}
	}
	if err := unix.Unmount(k.root, 0); err != nil {
		t.Error(err)
	}
	k.remove()
}
