package hooks_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/hooks"
)

func TestParseDevices(t *testing.T) {
	got, err := hooks.ParseDevices("binder,hwbinder,vnd-binder")
	if err != nil || !slices.Equal(got, []string{"binder", "hwbinder", "vnd-binder"}) {
		t.Errorf("%q, %v", got, err)
	}
	for list, want := range map[string]string{
		"": `""`, "binder,": `"binder,"`, "binder,,hwbinder": `""`, "a/b": `"a/b"`, "..": `".."`, "binder-control": "binder-control",
		"binder,binder": "listed twice", "binderfs": "/dev/binderfs", strings.Repeat("x", 256): "255",
	} {
		if got, err := hooks.ParseDevices(list); !errors.Is(err, hooks.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gave %q, %v; want an error about %s", list, got, err, want)
		}
	}
}

func TestMapped(t *testing.T) {
	if id, err := hooks.Mapped("      1000     200000          5\n         0     100000       1000\n"); err != nil || id != 100000 {
		t.Errorf("%d, %v", id, err)
	}
	if _, err := hooks.Mapped("1 100000 1000\n"); !errors.Is(err, hooks.ErrInvalid) {
		t.Errorf("a namespace without root: %v", err)
	}
}

// Whatever a runtime or a bundle says wrongly, the error says what it is and nothing is done.
func TestBadStates(t *testing.T) {
	withDevices := map[string]string{hooks.AnnotationDevices: "binder"}
	own := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}
	root := &specs.Root{Path: "rootfs"}
	for name, c := range map[string]struct {
		state  specs.State
		config any
		want   string
	}{
		"no id":        {specs.State{Status: specs.StateCreating}, specs.Spec{}, "lacks id or bundle"},
		"no bundle":    {specs.State{ID: "x", Bundle: "/nonexistent"}, nil, "/nonexistent/config.json"},
		"bad config":   {specs.State{ID: "x"}, "text", "config.json"},
		"no root":      {specs.State{ID: "x"}, specs.Spec{}, "root.path"},
		"device":       {specs.State{ID: "x", Annotations: map[string]string{hooks.AnnotationDevices: "a b,/"}}, specs.Spec{Root: root}, hooks.AnnotationDevices},
		"publish":      {specs.State{ID: "x", Annotations: map[string]string{hooks.AnnotationDevices: "a", hooks.AnnotationPublish: "x"}}, specs.Spec{Root: root}, `dev.corsa.binder.publish="x"`},
		"stage":        {specs.State{ID: "x", Status: specs.StateRunning, Pid: 1}, specs.Spec{Root: root, Annotations: withDevices}, "createRuntime and poststop"},
		"no process":   {specs.State{ID: "x", Status: specs.StateCreating}, specs.Spec{Root: root, Linux: own, Annotations: withDevices}, "no process"},
		"host mounts":  {specs.State{ID: "x", Status: specs.StateCreating, Pid: 1}, specs.Spec{Root: root, Annotations: withDevices}, "no mount namespace of its own"},
		"joined":       {specs.State{ID: "x", Status: specs.StateCreating, Pid: 1}, specs.Spec{Root: root, Annotations: withDevices, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace, Path: "/proc/7/ns/mnt"}}}}, "joins the mount namespace /proc/7/ns/mnt"},
		"missing root": {specs.State{ID: "x", Status: specs.StateCreating, Pid: os.Getpid()}, specs.Spec{Root: root, Linux: own, Annotations: withDevices}, "root of the container"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.state.ID != "" && c.state.Bundle == "" {
				c.state.Bundle = t.TempDir()
			}
			if c.config != nil && c.state.Bundle != "" {
				text, err := json.Marshal(c.config)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(c.state.Bundle, "config.json"), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			text, err := json.Marshal(c.state)
			if err != nil {
				t.Fatal(err)
			}
			if err := hooks.OCI(strings.NewReader(string(text))); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it gave %v, want something about %s", err, c.want)
			}
		})
	}
	if err := hooks.OCI(strings.NewReader("no json")); !errors.Is(err, hooks.ErrInvalid) {
		t.Errorf("text that is no state: %v", err)
	}
}

// A container that asks for nothing is left alone, also on a host that could not help it.
func TestNoAnnotation(t *testing.T) {
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"root": {"path": "rootfs"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hooks.OCI(strings.NewReader(`{"id": "x", "bundle": "` + bundle + `", "status": "creating", "pid": 1}`)); err != nil {
		t.Error(err)
	}
}

// The files that are to be installed say what the programs understand.
func TestInstalledFiles(t *testing.T) {
	text, err := os.ReadFile("oci-hooks.d.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version string
		Hook    specs.Hook
		When    struct{ Annotations map[string]string }
		Stages  []string
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if file.Version != "1.0.0" || !filepath.IsAbs(file.Hook.Path) || !slices.Equal(file.Stages, []string{"createRuntime", "poststop"}) {
		t.Errorf("it says %+v", file)
	}
}

func TestCgroupDirectory(t *testing.T) {
	const mountinfo = `25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/cpu,devices rw - cgroup cgroup rw,cpu,devices
28 25 0:25 /machine /mnt/pids rw shared:1 - cgroup cgroup rw,pids
`
	for _, c := range []struct{ kind, controller, path, want string }{
		{"cgroup2", "", "/a/b", "/sys/fs/cgroup/unified/a/b"},
		{"cgroup2", "", "/", "/sys/fs/cgroup/unified"},
		{"cgroup", "devices", "/a", "/sys/fs/cgroup/cpu,devices/a"},
		{"cgroup", "pids", "/machine/x", "/mnt/pids/x"},
		{"cgroup", "pids", "/other", ""},
		{"cgroup", "memory", "/a", ""},
	} {
		if got := hooks.CgroupDirectory(mountinfo, c.kind, c.controller, c.path); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
