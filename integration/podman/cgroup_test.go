package podman

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// kill ends a process of ours.
func kill(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// limit reads the file of a container's cgroup that is v1 or v2 depending on the host.
func limit(t *testing.T, name, controller, v1, v2 string) string {
	t.Helper()
	id := inspect(t, name, ".Id")
	for _, path := range []string{
		filepath.Join("/sys/fs/cgroup", controller, world.cgroup, "libpod-"+id, v1),
		filepath.Join("/sys/fs/cgroup", world.cgroup, "libpod-"+id, v2),
	} {
		if data, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Fatalf("no cgroup of %s with %s or %s below /%s", name, v1, v2, world.cgroup)
	return ""
}

func TestLimits(t *testing.T) {
	name := start(t, []string{"--memory", "32m", "--pids-limit", "17", "--cpu-period", "100000", "--cpu-quota", "50000", "--cpuset-cpus", "0"}, "sleep", "1000")
	if got := limit(t, name, "memory", "memory.limit_in_bytes", "memory.max"); got != "33554432" {
		t.Errorf("memory %s", got)
	}
	if got := limit(t, name, "pids", "pids.max", "pids.max"); got != "17" {
		t.Errorf("pids %s", got)
	}
	if got := limit(t, name, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("quota %s", got)
	}
	prints(t, "Cpus_allowed_list:\t0", "exec", name, "grep", "Cpus_allowed_list", "/proc/self/status")
}

func TestUpdate(t *testing.T) {
	name := start(t, []string{"--memory", "32m", "--memory-swap", "32m", "--pids-limit", "17"}, "sleep", "1000")
	ok(t, "update", "--memory", "64m", "--memory-swap", "64m", "--cpu-quota", "30000", "--cpu-period", "100000", name)
	if got := limit(t, name, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory %s", got)
	}
	if got := limit(t, name, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "30000") {
		t.Errorf("quota %s", got)
	}
	if got := limit(t, name, "pids", "pids.max", "pids.max"); got != "17" {
		t.Errorf("pids %s, which was not changed", got)
	}
	prints(t, "there", "exec", name, "echo", "there")
}

// Too much memory ends the container, and not the machine.
func TestOutOfMemory(t *testing.T) {
	name := start(t, []string{"--memory", "32m", "--memory-swap", "32m"}, "sh", "-c", "x=$(yes | head -c 200000000)")
	prints(t, "137", "wait", name)
}
