package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Each bundle asks for one thing, and its program prints what became of it inside the container.
func TestEffectsInsideTheContainer(t *testing.T) {
	c := newCorsa(t)
	owned := filepath.Join(t.TempDir(), "owned")
	if err := os.WriteFile(owned, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(owned, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 2000, Size: 1}}
	for _, v := range []struct {
		name, want, script string
		needs              string // a file of the kernel without which it cannot be had
		change             func(*specs.Spec)
	}{
		{"time namespace", "later", `read up rest < /proc/uptime; [ ${up%.*} -gt 900000000 ] && echo later`, "/proc/self/ns/time", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 900000000}, "boottime": {Secs: 900000000}}
		}},
		{"idmapped mount", "2000 2000", "stat -c '%u %g' /tmp/owned", "", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/tmp", Type: "bind", Source: filepath.Dir(owned), Options: []string{"rbind", "idmap"}, UIDMappings: mapping, GIDMappings: mapping,
			})
		}},
		{"user namespace", "0 100000", "echo $(id -u) $(awk '{print $2}' /proc/self/uid_map)", "/proc/self/ns/user", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
		}},
		{"seccomp", "mkdir: can't create directory '/tmp/x': No anode", "mkdir /tmp/x 2>&1; true", "", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.ENOANO))},
			}}
		}},
		{"rlimits", "77 88 9", "echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -Hc)", "", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}, {Type: "RLIMIT_CORE", Soft: 9 * 512, Hard: 9 * 512}}
		}},
		{"personality", "i686", "uname -m", "", func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}},
		{"memory policy", "interleave", "grep -q interleave:0 /proc/self/numa_maps && echo interleave", "/proc/self/numa_maps", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0"}
		}},
		{"scheduler", "3", "awk '{print $41}' /proc/1/stat", // SCHED_BATCH
			"", func(s *specs.Spec) {
				s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
			}},
		{"I/O priority", "best-effort: prio 7", "ionice -p 1", "", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 7}
		}},
		{"OOM score", "321", "cat /proc/self/oom_score_adj", "", func(s *specs.Spec) { s.Process.OOMScoreAdj = new(321) }},
		{"names", "host-x domain-x", "echo $(hostname) $(cat /proc/sys/kernel/domainname)", "", func(s *specs.Spec) { s.Hostname, s.Domainname = "host-x", "domain-x" }},
		{"sysctl", "4711", "cat /proc/sys/net/core/somaxconn", "", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "4711"} }},
		{"masked and read-only paths", "0 no", "echo $(wc -c < /proc/meminfo) $(touch /tmp/ro/x 2>/dev/null || echo no)", "", func(s *specs.Spec) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/meminfo"}, []string{"/tmp/ro"}
		}},
		{"no_new_privs", "1", "awk '/NoNewPrivs/{print $2}' /proc/self/status", "", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{"capabilities", "0000000000000400", "awk '/CapEff/{print $2}' /proc/self/status", "", func(s *specs.Spec) {
			caps := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		}},
		{"CPUs", "0", "awk '/Cpus_allowed_list/{print $2}' /proc/self/status", "", func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0"}
		}},
		{"device rules", "head: /tmp/kmsg: Operation not permitted", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg 2>&1 >/dev/null; true", "", func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_MKNOD")
			s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_MKNOD")
			s.Process.Capabilities.Permitted = append(s.Process.Capabilities.Permitted, "CAP_MKNOD")
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			if _, err := os.Stat(v.needs); v.needs != "" && err != nil {
				t.Skip("the kernel lacks ", err)
			}
			sub := &corsa{t: t, root: c.root}
			dir := busyboxBundle(t, sub, v.change, "sh", "-c", v.script)
			if err := os.Mkdir(filepath.Join(dir, "rootfs/tmp/ro"), 0o777); err != nil {
				t.Fatal(err)
			}
			for path := dir; path != os.TempDir(); path = filepath.Dir(path) { // root of a user namespace has to get there
				if err := os.Chmod(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if out := strings.TrimSpace(sub.ok("run", "-b", dir, containerID(t))); out != v.want {
				t.Errorf("got %q, want %q", out, v.want)
			}
		})
	}
}

func TestIntelRdtIsRefusedWhereThereIsNone(t *testing.T) {
	if _, err := os.Stat("/sys/fs/resctrl/schemata"); err == nil {
		t.Skip("this host has it")
	}
	c := newCorsa(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} }, "true")
	c.fails(1, "intelRdt", "create", "-b", dir, containerID(t))
}

// A network device moves into the container. corsa runs in a network namespace of the test's.
func TestNetDevices(t *testing.T) {
	needs(t, "ip")
	needs(t, "unshare")
	c := newCorsa(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"corsa0": {Name: "inside0"}}
	}, "sh", "-c", "ls /sys/class/net | grep -c inside0")
	cmd := exec.Command("unshare", "-n", "sh", "-c", `ip link add corsa0 type veth peer name corsa1 || exit 77; exec "$@"`, "sh",
		corsaBin, "--root", c.root, "run", "-b", dir, containerID(t))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 77 {
		t.Skip("the kernel has no veth: ", string(out))
	}
	if err != nil || string(out) != "1\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// Hooks run at every stage, in the order of the specification, in the namespaces that it says.
func TestHooks(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	log := filepath.Join(t.TempDir(), "log")
	hook := func(name string) specs.Hook {
		script := `read state; echo ` + name + ` $(echo "$state" | sed 's/.*"status":"\([a-z]*\)".*/\1/') "$X" $(readlink /proc/self/ns/mnt) >> ` + log
		return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"X=" + name, "PATH=/bin:/usr/bin"}, Timeout: new(20)}
	}
	fails := specs.Hook{Path: "/bin/false"}
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		inside := hook("startContainer")
		inside.Args[2] = strings.ReplaceAll(inside.Args[2], log, "/tmp/log")
		s.Hooks = &specs.Hooks{
			Prestart:      []specs.Hook{hook("prestart")}, //nolint:staticcheck // deprecated, and still in use
			CreateRuntime: []specs.Hook{hook("createRuntime")}, CreateContainer: []specs.Hook{hook("createContainer")},
			StartContainer: []specs.Hook{inside}, Poststart: []specs.Hook{hook("poststart")}, Poststop: []specs.Hook{fails, hook("poststop")},
		}
	}, "sleep", "1000")
	c.ok("create", "-b", dir, id)
	c.ok("start", id)
	inside := filepath.Join(dir, "rootfs/tmp/log")
	eventually(t, "startContainer has run", func() bool { _, err := os.Stat(inside); return err == nil })
	_, stderr, code := c.run("", "delete", "--force", id)
	if code != 0 || !strings.Contains(stderr, "poststop hook 0 failed") {
		t.Errorf("delete: exit code %d, %q", code, stderr)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[2] != f[0] {
			t.Fatalf("malformed line %q", line)
		}
		got = append(got, f[0]+" "+f[1]+" "+strconv.FormatBool(f[3] == host))
	}
	want := "prestart creating true, createRuntime creating true, createContainer creating false, poststart created true, poststop stopped true"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("hooks ran:\n%s, want\n%s", s, want)
	}
	if data, err = os.ReadFile(inside); err != nil || !strings.HasPrefix(string(data), "startContainer created startContainer mnt:") || strings.Contains(string(data), host) {
		t.Errorf("startContainer wrote %q, %v", data, err)
	}
}
