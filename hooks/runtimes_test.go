package hooks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/integration/containertest"
)

func (b *box) startRunc(t *testing.T) *running {
	t.Helper()
	return b.startOCI(t, "runc")
}

// startOCI starts the box in a bundle with the hook.
func (b *box) startOCI(t *testing.T, runtime string) *running {
	t.Helper()
	b.write(t, "config.json", b.config())
	state := filepath.Join(b.dir, "state")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(state, b.id)); err != nil {
			return
		}
		if text, err := exec.Command(runtime, "--root", state, "delete", "--force", b.id).CombinedOutput(); err != nil {
			t.Errorf("%s delete: %v: %s", runtime, err, text)
		}
	})
	return b.start(t, runtime, "--root", state, "run", "--bundle", b.dir, b.id)
}

// config is a bundle that forbids all devices, as runtimes' and engines' defaults do.
func (b *box) config() *specs.Spec {
	hook := []specs.Hook{{Path: b.hook, Args: []string{"corsa-binderfs-hook", "oci"}}}
	s := &specs.Spec{
		Version:     "1.0.2",
		Annotations: b.annotations(),
		Root:        &specs.Root{Path: "rootfs"},
		Hooks:       &specs.Hooks{CreateRuntime: hook, Poststop: hook},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", b.script}, Env: []string{"PATH=/bin"}, Cwd: "/", User: specs.User{UID: b.uid, GID: b.uid},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: b.cgroup,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.MountNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	if b.usernames {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	return s
}

// installHook puts the file for hooks.d that is to be installed beside the box, with the path of the hook of this test.
func (b *box) installHook(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(b.installed("oci-hooks.d.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	file["hook"].(map[string]any)["path"] = b.hook
	b.write(t, "hooks.d/corsa-binderfs.json", file)
}

// installed is the path of a file of this package.
func (b *box) installed(name string) string {
	if dir := os.Getenv(programsVariable); dir != "" {
		return filepath.Join(dir, name)
	}
	return name
}

func (b *box) startPodman(t *testing.T) *running {
	t.Helper()
	runtime := "crun"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		runtime = "runc" // crun does not support hosts that have both versions of cgroups
	}
	path, err := exec.LookPath(runtime)
	if err != nil {
		t.Skipf("%s: not installed; run: make deps", runtime)
	}
	in := func(name string) string { return filepath.Join(b.dir, name) }
	engine := []string{
		"--root", in("storage"), "--runroot", in("runroot"), "--tmpdir", in("podman"), "--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", path, "--hooks-dir", in("hooks.d"),
	}
	parent := b.id + "-parent" // podman's own would stay
	t.Cleanup(func() {
		if text, err := exec.Command("podman", append(engine, "rm", "--force", "--ignore", "--time", "0", b.id)...).CombinedOutput(); err != nil {
			t.Errorf("podman rm: %v: %s", err, text)
		}
		unmountBelow(t, b.dir)
		if err := containertest.RemoveCgroups(parent); err != nil {
			t.Error(err)
		}
	})
	args := append(engine, "run", "--name", b.id, "--cgroup-parent", "/"+parent, "--network", "none")
	// Without these, podman asks for more than a machine without CAP_SYS_RESOURCE gives.
	args = append(args, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
	if len(b.devices) > 0 {
		for k, v := range b.annotations() {
			args = append(args, "--annotation", `"`+k+"="+v+`"`) // podman 4.3 reads comma-separated values
		}
	}
	return b.start(t, "podman", append(args, "--env", "PATH=/bin", "--rootfs", b.rootfs, "/bin/sh", "-c", b.script)...)
}

// unmountBelow removes what podman keeps mounted for itself.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if text, err := exec.Command("umount", "-l", fields[4]).CombinedOutput(); err != nil {
				t.Errorf("umount %s: %v: %s", fields[4], err, text)
			}
		}
	}
}

// startLXC starts the box with the hook as lxc.hook.KIND and as lxc.hook.start-host.
func (b *box) startLXC(t *testing.T, kind string) *running {
	t.Helper()
	path := filepath.Join(b.dir, "script")
	if err := os.WriteFile(filepath.Join(b.rootfs, "script"), []byte(b.script), 0o755); err != nil {
		t.Fatal(err)
	}
	hook := b.hook + " lxc " + strings.Join(b.devices, ",")
	config := fmt.Sprintf(`lxc.uts.name = box
lxc.rootfs.path = dir:%s
lxc.net.0.type = empty
lxc.mount.auto = proc
lxc.environment = PATH=/bin
lxc.init.cmd = /bin/sh /script
lxc.hook.%s = %s
lxc.hook.start-host = %s
`, b.rootfs, kind, hook, hook)
	if kind == "mount" {
		config += "lxc.autodev = 0\nlxc.mount.entry = tmpfs dev tmpfs nosuid 0 0\nlxc.mount.entry = /dev/null dev/null none bind,create=file 0 0\n"
	}
	// All devices but /dev/null are forbidden, whatever controls that here.
	for _, key := range []string{"lxc.cgroup.devices", "lxc.cgroup2.devices"} {
		config += key + ".deny = a\n" + key + ".allow = c 1:3 rwm\n"
	}
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	lxc := filepath.Join(b.dir, "lxc")
	if err := os.Mkdir(lxc, 0o755); err != nil {
		t.Fatal(err)
	}
	// LXC shows what a hook says on no other level.
	return b.start(t, "lxc-start", "-P", lxc, "-n", b.id, "-f", path, "-F", "-o", "/dev/stderr", "-l", "DEBUG")
}
