package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// limits reads, inside a container, the files of its own cgroup that update changes.
type limits struct {
	c  *corsa
	id string
	v2 bool
}

// limitsOf needs a container whose bundle is corsa spec's: it mounts the cgroup at /sys/fs/cgroup.
func limitsOf(c *corsa, id string) limits {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		c.t.Fatal(err)
	}
	return limits{c, id, st.Type == unix.CGROUP2_SUPER_MAGIC}
}

// expect compares the file v1 of the controller, or v2 of the unified hierarchy.
func (l limits) expect(controller, v1, want1, v2, want2 string) {
	l.c.t.Helper()
	path, want := "/sys/fs/cgroup/"+controller+"/"+v1, want1
	if l.v2 {
		path, want = "/sys/fs/cgroup/"+v2, want2
	}
	if got := strings.TrimSpace(l.c.ok("exec", l.id, "cat", path)); got != want {
		l.c.t.Errorf("%s is %q, want %q", path, got, want)
	}
}

func (l limits) memory(v1, v2 string) {
	l.c.t.Helper()
	l.expect("memory", "memory.limit_in_bytes", v1, "memory.max", v2)
}

func (l limits) pids(want string) {
	l.c.t.Helper()
	l.expect("pids", "pids.max", want, "pids.max", want)
}

func TestUpdate(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	c.ok("create", "-b", dir, id)
	l := limitsOf(c, id)
	c.ok("update", "--memory", "64M", "--pids-limit", "50", id) // a created container has a cgroup, too
	c.ok("start", id)
	l.memory("67108864", "67108864")
	l.pids("50")

	c.ok("update", "--cpu-quota", "40000", "--cpu-period", "80000", "--cpu-share", "512", "--cpuset-cpus", "0", id)
	l.memory("67108864", "67108864")
	l.expect("cpu", "cpu.cfs_quota_us", "40000", "cpu.max", "40000 80000")
	l.expect("cpu", "cpu.cfs_period_us", "80000", "cpu.max", "40000 80000")
	l.expect("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0")
	c.ok("update", "--cpu-period", "50000", id) // the quota stays
	l.expect("cpu", "cpu.cfs_quota_us", "40000", "cpu.max", "40000 50000")

	stdin := `{"memory": {"limit": 33554432, "swap": 33554432}, "pids": {"limit": 60}}`
	if _, stderr, code := c.run(stdin, "update", "--resources", "-", id); code != 0 || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	l.memory("33554432", "33554432")
	l.pids("60")
	file := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(file, []byte(`{"pids": {"limit": -1}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := c.run("", "update", "-r", file, id); code != 0 || !strings.Contains(stderr, "hugepageLimits") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	l.pids("max")
	l.memory("33554432", "33554432")
}

// The kernel takes the first of two values and refuses the other one.
func TestUpdateIsAllOrNothing(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(70))} }, "sleep", "1000")
	c.ok("run", "-d", "-b", dir, id)
	l := limitsOf(c, id)
	c.fails(1, "update", "update", "--memory", "64M", "--pids-limit", "50", "--cpu-quota", "7", id)
	l.memory("9223372036854771712", "max")
	l.pids("70")
	c.ok("update", "--pids-limit", "80", id)
	l.memory("9223372036854771712", "max")
	l.pids("80")
}

func TestUpdateRefuses(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "true")
	c.ok("run", "--keep", "-b", dir, id)
	c.fails(1, "it is stopped", "update", "--memory", "64M", id)
	c.fails(1, "does not exist", "update", "--memory", "64M", id+"-none")
	c.fails(1, "must be a number of bytes", "update", "--memory", "lots", id)
	c.fails(1, "must be a number of bytes", "update", "--memory", "-5", id)
	c.fails(1, "must be a number", "update", "--cpu-quota", "x", id)
	c.fails(1, "one or the other", "update", "--resources", "/dev/null", "--memory", "64M", id)
	c.fails(1, "the file is empty", "update", "--resources", "/dev/null", id)
	c.fails(1, "no such file", "update", "--resources", "/nonexistent", id)
	c.fails(1, "ID is missing", "update")
}

// statsEvent is what events prints of type stats.
func statsEvent(t *testing.T, line, id string) types.Stats {
	t.Helper()
	var e struct {
		Type, ID string
		Data     types.Stats
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	if e.Type != "stats" || e.ID != id {
		t.Errorf("got event %q of %q", e.Type, e.ID)
	}
	return e.Data
}

func TestEventsStats(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20))}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(77))}
	}, "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done > /tmp/done; sleep 1000; true")
	c.ok("run", "-d", "-b", dir, id)
	eventually(t, "the program has counted", func() bool { _, err := os.Stat(filepath.Join(dir, "rootfs/tmp/done")); return err == nil })
	s := statsEvent(t, c.ok("events", "--stats", id), id)
	if s.Memory.Usage.Limit != 64<<20 || s.Memory.Usage.Usage == 0 || s.Pids.Limit != 77 || s.Pids.Current < 1 || s.CPU.Usage.Total == 0 {
		t.Errorf("statistics are %+v", s)
	}
	c.fails(1, "one or the other", "events", "--stats", "--since", "1", id)
	c.fails(1, "JSON only", "events", "--stats", "--format", "table", id)
	c.fails(1, "must be more than 0", "events", "--interval", "0s", id)
	c.ok("kill", id, "KILL")
	eventually(t, "it has stopped", func() bool { return c.state(id).Status == "stopped" })
	c.fails(1, "it is stopped", "events", "--stats", id)
	c.fails(1, "it is stopped", "events", id)
}

func TestEventsOutOfMemory(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(16 << 20)), Swap: new(int64(16 << 20))}
	}, "sleep", "1000")
	c.ok("run", "-d", "-b", dir, id)
	cmd := c.command("events", "--interval", "20ms", id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(deadline, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("events printed nothing")
	}
	statsEvent(t, lines.Text(), id)
	if _, _, code := c.run("", "exec", id, "sh", "-c", `x=$(head -c 100000000 /dev/zero | tr '\0' x)`); code == 0 {
		t.Error("the limit was not exceeded")
	}
	oom := false
	for !oom && lines.Scan() {
		oom = lines.Text() == `{"type":"oom","id":"`+id+`"}`
	}
	if !oom {
		t.Error("no event tells of it")
	}
	c.ok("delete", "--force", id)
	for lines.Scan() { // what is under way
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events: %v", err)
	}
}
