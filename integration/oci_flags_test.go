package integration

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExecCgroup(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + id }, "sleep", "1000")
	c.ok("run", "-d", "-b", dir, id)
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + id)
	if err != nil {
		t.Fatal(err)
	}
	v2 := limitsOf(c, id).v2
	if v2 {
		tops = []string{"/sys/fs/cgroup/" + id}
	}
	for _, top := range tops {
		if err := os.Mkdir(filepath.Join(top, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // without them v1 takes no process
			if data, err := os.ReadFile(filepath.Join(top, file)); err == nil && !v2 {
				if err := os.WriteFile(filepath.Join(top, "sub", file), data, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for line := range strings.Lines(c.ok("exec", "--cgroup", "sub", id, "cat", "/proc/self/cgroup")) {
		if line = strings.TrimSpace(line); !strings.HasSuffix(line, "/sub") && strings.Contains(strings.Join(tops, " "), strings.Split(line, ":")[1]) {
			t.Errorf("the program is in %s", line)
		}
	}
	if !v2 {
		out := c.ok("exec", "--cgroup", "memory,pids:sub", id, "cat", "/proc/self/cgroup")
		if !strings.Contains(out, ":memory:/"+id+"/sub\n") || !strings.Contains(out, ":pids:/"+id+"/sub\n") || strings.Contains(out, ":freezer:/"+id+"/sub\n") {
			t.Errorf("the program is in\n%s", out)
		}
		c.fails(255, "unknown controller nope", "exec", "--cgroup", "nope:sub", id, "true")
	}
	c.fails(255, "no such file", "exec", "--cgroup", "none", id, "true")
	c.fails(255, "below the container's cgroup", "exec", "--cgroup", "../x", id, "true")
	c.fails(255, "given twice", "exec", "--cgroup", "pids:a", "--cgroup", "pids:b", id, "true")
	c.fails(255, "needs a controller", "exec", "--cgroup", "a", "--cgroup", "b", id, "true")
}

// receivePidfd listens at path and returns the pid of the process whose pidfd is sent there, as our own pid namespace has it.
func receivePidfd(t *testing.T, path string) <-chan int {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	pids := make(chan int, 1)
	go func() {
		defer close(pids)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		data, control := make([]byte, 4096), make([]byte, 256)
		_, n, _, _, err := conn.ReadMsgUnix(data, control)
		if err != nil {
			t.Error(err)
			return
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			t.Errorf("got %d messages, %v", len(messages), err)
			return
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Errorf("got descriptors %v, %v", fds, err)
			return
		}
		defer unix.Close(fds[0])
		info, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(fds[0]))
		if err != nil {
			t.Error(err)
			return
		}
		defer info.Close()
		for lines := bufio.NewScanner(info); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "Pid:"); ok {
				pid, _ := strconv.Atoi(strings.TrimSpace(text)) // 0 is not what the caller expects
				pids <- pid
			}
		}
	}()
	return pids
}

func TestPidfdSocket(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	socket := filepath.Join(t.TempDir(), "s")
	pid := receivePidfd(t, socket)
	c.ok("create", "--pidfd-socket", socket, "-b", dir, id)
	if got := <-pid; got != c.state(id).PID || got == 0 {
		t.Errorf("create sent a pidfd of process %d, state says %d", got, c.state(id).PID)
	}
	c.ok("start", id)
	socket, pidFile := socket+"2", filepath.Join(t.TempDir(), "pid")
	pid = receivePidfd(t, socket)
	c.ok("exec", "--pidfd-socket", socket, "--detach", "--pid-file", pidFile, id, "sleep", "1001")
	data, err := os.ReadFile(pidFile)
	if got := <-pid; err != nil || strconv.Itoa(got) != string(data) {
		t.Errorf("exec sent a pidfd of process %d, its pid file has %q, %v", got, data, err)
	}
	c.fails(1, "pidfd socket", "create", "--pidfd-socket", socket+"none", "-b", dir, id+"2")
}

func TestNoSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd runs here")
	}
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "true")
	c.fails(1, "systemd does not run on this host", "--systemd-cgroup", "create", "-b", dir, containerID(t))
	c.fails(1, "systemd does not run on this host", "--systemd-cgroup", "restore", "-b", dir, "--image-path", dir, containerID(t))
	if out := c.ok("list", "-q"); out != "" {
		t.Errorf("it left %q", out)
	}
}

// Callers look for the reason of a failure in the log.
func TestLogHasTheError(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "nope")
	for _, v := range []struct {
		want string
		args []string
	}{
		{`exec: "nope": executable file not found in $PATH`, []string{"create", "-b", dir, containerID(t)}},
		{"does not exist", []string{"state", "nope"}},
		{"ID is missing", []string{"state"}},
		{"unknown flag: --bogus", []string{"state", "--bogus"}},
		{"must be true, false or auto", []string{"--rootless", "maybe", "list"}},
	} {
		log := filepath.Join(t.TempDir(), "log")
		c.fails(1, v.want, append([]string{"--log", log, "--log-format", "json"}, v.args...)...)
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var entry map[string]string
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil {
			t.Fatalf("%v: %q", err, data)
		}
		if entry["level"] != "error" || !strings.Contains(entry["msg"], v.want) || entry["time"] == "" || len(entry) != 3 {
			t.Errorf("%v logged %v", v.args, entry)
		}
	}
}

// podman turns these words into exit codes.
func TestWordsOfExecFailures(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	if err := os.WriteFile(filepath.Join(dir, "rootfs/etc/text"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.ok("run", "-d", "-b", dir, id)
	c.fails(255, "executable file not found in $PATH", "exec", id, "nope")
	c.fails(255, "no such file or directory", "exec", id, "/nope")
	c.fails(255, "permission denied", "exec", id, "/etc/text")
	c.fails(255, "permission denied", "exec", id, "/etc")
}
