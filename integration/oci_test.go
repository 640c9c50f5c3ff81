package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// containerState is what `state` and `list` print.
type containerState struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
}

func (c *corsa) state(id string) containerState {
	c.t.Helper()
	var st containerState
	if err := json.Unmarshal([]byte(c.ok("state", id)), &st); err != nil {
		c.t.Fatal(err)
	}
	return st
}

func (c *corsa) expectStatus(id, want string) containerState {
	c.t.Helper()
	st := c.state(id)
	if st.Status != want {
		c.t.Errorf("container is %s, want %s", st.Status, want)
	}
	return st
}

func TestRunPassesStreamsAndExitCode(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sh", "-c", "cat; echo problem >&2; exit 42")
	big := strings.Repeat("0123456789abcde\n", 64<<10) // more than pipes hold
	stdout, stderr, code := c.run(big, "run", "--bundle", dir, containerID(t))
	if stdout != big || stderr != "problem\n" || code != 42 {
		t.Errorf("got %d bytes of output, stderr %q, exit code %d", len(stdout), stderr, code)
	}
	if out := c.ok("list", "-q"); out != "" {
		t.Errorf("run left %q", out)
	}
}

func TestRunExitsWith128PlusSignal(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sh", "-c", "sh -c 'kill -SEGV $$'; exit $?")
	if _, stderr, code := c.run("", "run", "-b", dir, containerID(t)); code != 128+11 {
		t.Errorf("exit code %d; %s", code, stderr)
	}
}

func TestRunForwardsSignals(t *testing.T) {
	runForwards(t, unix.SIGTERM, time.Hour) // the first one has to get through
}

// One that corsa only catches when the program has run for a while.
func TestRunForwardsUnusualSignals(t *testing.T) {
	runForwards(t, unix.SIGIO, 10*time.Millisecond)
}

func runForwards(t *testing.T, sig unix.Signal, again time.Duration) {
	t.Helper()
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sh", "-c", fmt.Sprintf("trap 'echo got; exit 9' %d; echo ready; while :; do sleep 0.01; done", int(sig)))
	cmd := c.command("run", "-b", dir, containerID(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(deadline, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	buf := make([]byte, 64)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "ready\n" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	got := make(chan struct{})
	go func() {
		for {
			_ = cmd.Process.Signal(sig) // the last one may come too late
			select {
			case <-got:
				return
			case <-time.After(again):
			}
		}
	}()
	n, err := out.Read(buf)
	close(got)
	if err != nil || string(buf[:n]) != "got\n" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("exit code %d, %v", cmd.ProcessState.ExitCode(), err)
	}
}

func TestLifecycle(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) { s.Annotations = map[string]string{"org.example": "yes"} },
		"sh", "-c", "echo started > /tmp/started; trap 'exit 0' TERM; while :; do sleep 0.01; done")
	started := filepath.Join(dir, "rootfs/tmp/started")
	pidFile := filepath.Join(t.TempDir(), "pid")

	c.ok("create", "--bundle", dir, "--pid-file", pidFile, id)
	st := c.expectStatus(id, "created")
	data, err := os.ReadFile(pidFile)
	if err != nil || string(data) != strconv.Itoa(st.PID) {
		t.Errorf("pid file has %q, %v; state says %d", data, err, st.PID)
	}
	if st.ID != id || st.Bundle != dir || st.Rootfs != filepath.Join(dir, "rootfs") || st.OCIVersion == "" ||
		st.Created.IsZero() || st.Annotations["org.example"] != "yes" || len(st.Annotations) != 1 {
		t.Errorf("state is %+v", st)
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("create has already started the program")
	}
	c.fails(1, "already exists", "create", "-b", dir, id)
	c.fails(1, "it is created", "resume", id)

	c.ok("start", id)
	eventually(t, "the program runs", func() bool { _, err := os.Stat(started); return err == nil })
	c.expectStatus(id, "running")
	c.fails(1, "it is running", "start", id)
	c.fails(1, "--force", "delete", id)

	c.ok("pause", id)
	c.expectStatus(id, "paused")
	c.fails(1, "it is paused", "pause", id)
	c.fails(255, "it is paused", "exec", id, "true")
	c.ok("resume", id)
	c.expectStatus(id, "running")

	c.ok("kill", id) // SIGTERM by default
	eventually(t, "the program has ended", func() bool { return c.state(id).Status == "stopped" })
	if st := c.state(id); st.PID != 0 {
		t.Errorf("a stopped container has pid %d", st.PID)
	}
	c.fails(1, "it is stopped", "kill", id, "KILL")
	c.ok("kill", "--all", id, "KILL")
	c.fails(1, "it is stopped", "start", id)
	c.fails(255, "it is stopped", "exec", id, "true")
	c.ok("delete", id)
	c.fails(1, "does not exist", "delete", id)
	c.ok("delete", "--force", id)
}

func TestListAndPs(t *testing.T) {
	c := newCorsa(t)
	if out := c.ok("list", "--json"); out != "[]\n" {
		t.Errorf("an empty list is %q", out)
	}
	dir := busyboxBundle(t, c, nil, "sh", "-c", "sleep 1000 & sleep 1000; true")
	a, b := containerID(t)+"-a", containerID(t)+"-b"
	c.ok("run", "-d", "-b", dir, a)
	c.ok("create", "-b", dir, b)
	if out := c.ok("list", "-q"); out != a+"\n"+b+"\n" {
		t.Errorf("list -q is %q", out)
	}
	var list []containerState
	if err := json.Unmarshal([]byte(c.ok("list", "--format", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].ID != a || list[0].Status != "running" || list[1].Status != "created" {
		t.Errorf("list is %+v", list)
	}
	lines := strings.Split(strings.TrimSpace(c.ok("list")), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "ID PID STATUS BUNDLE CREATED OWNER" ||
		strings.Fields(lines[1])[0] != a || strings.Fields(lines[1])[3] != dir {
		t.Errorf("list is\n%s", strings.Join(lines, "\n"))
	}

	var pids []int
	eventually(t, "all three processes run", func() bool {
		pids = nil
		if err := json.Unmarshal([]byte(c.ok("ps", "--format", "json", a)), &pids); err != nil {
			t.Fatal(err)
		}
		return len(pids) == 3
	})
	if pids[0] != list[0].PID {
		t.Errorf("ps has %v, init is %d", pids, list[0].PID)
	}
	if out := c.ok("ps", a); strings.Count(out, "\n") != 4 || strings.Count(out, "sleep 1000") < 2 {
		t.Errorf("ps is\n%s", out)
	}
	if out := c.ok("ps", a, "-o", "pid,comm"); !strings.HasPrefix(strings.TrimSpace(out), "PID COMMAND") {
		t.Errorf("ps -o pid,comm is\n%s", out)
	}
	c.fails(1, "no column PID", "ps", a, "-o", "comm")
}

func TestExec(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	c.ok("run", "-d", "--bundle", dir, id)

	stdout, stderr, code := c.run("in", "exec", "--env", "A=b c", "--cwd", "/tmp", "--user", "1000:1001", "-g", "7,8", id,
		"sh", "-c", `cat; echo; pwd; echo "$A"; id -u; id -g; id -G; exit 5`)
	if want := "in\n/tmp\nb c\n1000\n1001\n1001 7 8\n"; stdout != want || code != 5 || stderr != "" {
		t.Errorf("got %q, %q, exit code %d; want %q", stdout, stderr, code, want)
	}
	if out := c.ok("exec", id, "ps", "-o", "pid,comm"); !strings.Contains(out, "1 sleep") {
		t.Errorf("exec is not in the container's pid namespace:\n%s", out)
	}
	if out := c.ok("exec", id, "echo", "--json", "-q"); out != "--json -q\n" {
		t.Errorf("the program's arguments became %q", out)
	}

	process := filepath.Join(t.TempDir(), "process.json")
	p, err := json.Marshal(specs.Process{Args: []string{"/bin/sh", "-c", "echo $X"}, Env: []string{"X=from file"}, Cwd: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(process, p, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := c.ok("exec", "--process", process, id); out != "from file\n" {
		t.Errorf("exec --process printed %q", out)
	}

	pidFile := filepath.Join(t.TempDir(), "pid")
	c.ok("exec", "--detach", "--pid-file", pidFile, id, "sleep", "1001")
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if out := c.ok("ps", "--json", id); !strings.Contains(out, string(pid)) {
		t.Errorf("process %s is not among %s", pid, out)
	}

	c.fails(255, `exec: "nope": executable file not found in $PATH`, "exec", id, "nope")
	c.fails(255, "--user", "exec", "--user", "me", id, "true")
	c.fails(1, "program missing", "exec", id)
	c.fails(1, "--process", "exec", "--process", process, id, "true")
	c.fails(255, "cwd", "exec", "--cwd", "tmp", id, "true")
}

func TestPreservedDescriptors(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sh", "-c", "cat <&3")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("through 3"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := c.command("run", "--preserve-fds", "1", "-b", dir, containerID(t))
	cmd.ExtraFiles = []*os.File{r}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "through 3" {
		t.Errorf("got %q, %v", out, err)
	}
	c.fails(1, "bad file descriptor", "run", "--preserve-fds", "898", "-b", dir, containerID(t))
}

// Sockets that a service manager has opened (sd_listen_fds(3)) come first, preserved descriptors behind them.
func TestSocketActivation(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sh", "-c", `echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES"; cat <&3; cat <&4`)
	var files []*os.File
	for _, text := range []string{"listening ", "preserved"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		files = append(files, r)
	}
	cmd := c.command("run", "--preserve-fds", "1", "-b", dir, containerID(t))
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=web")
	cmd.ExtraFiles = files
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1 1 web\nlistening preserved" {
		t.Errorf("got %q, %v", out, err)
	}
}

// The data loss that libcontainer's delete causes after a restore was killed.
func TestDeleteSparesWhatAKilledRestoreLeftMounted(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	victim := t.TempDir()
	file := filepath.Join(victim, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.ok("create", "-b", dir, id)
	stale := filepath.Join(c.root, id, "criu-root")
	if err := os.Mkdir(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(victim, stale, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(stale, unix.MNT_DETACH) }() // it should be gone by now
	c.ok("delete", "--force", id)
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file behind the mount: %q, %v", data, err)
	}
}
