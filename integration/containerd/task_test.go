package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"corsa.dev/corsa/integration/containertest"
)

// counting counts into its output, a line ten times a second.
var counting = []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"}

// text is a file's content, "" without one.
func text(path string) string {
	data, _ := os.ReadFile(path) // not there yet
	return string(data)
}

func TestRun(t *testing.T) {
	r := once(t, nil, "sh", "-c", "echo out; echo err >&2; exit 7")
	if r.out != "out\n" || r.err != "err\n" || r.code != 7 {
		t.Errorf("%+v; want out, err, 7", r)
	}
}

func TestRunOfWhatIsNotThere(t *testing.T) {
	r := once(t, nil, "nosuch")
	if r.code == 0 || !strings.Contains(r.err, `"nosuch": executable file not found in $PATH`) {
		t.Errorf("%+v", r)
	}
	if left, err := os.ReadDir(world.state); err == nil && len(left) > 0 {
		t.Errorf("left in corsa's state root: %v", left)
	}
}

func TestStandardInput(t *testing.T) {
	id, own := container(t)
	cmd := ctr(words("run", "--rm", own, imageBusybox, id, "wc", "-l")...)
	var out strings.Builder
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	// An end of its input before there is a task ctr does not pass on, ever.
	eventually(t, "it runs", func() bool { return status(t, id) == "RUNNING" })
	_, err = io.WriteString(stdin, "a\nb\n")
	if err = errors.Join(err, stdin.Close(), cmd.Wait()); err != nil || strings.TrimSpace(out.String()) != "2" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestDetachedTask(t *testing.T) {
	id, output := start(t, nil, "sh", "-c", "echo begun; exec sleep 1000")
	eventually(t, "its program prints", func() bool { return text(output) == "begun\n" })
	if got := status(t, id); got != "RUNNING" {
		t.Errorf("status %q", got)
	}
	if ps := ok(t, "task", "ps", id); !strings.Contains(ps, pid(t, id)) {
		t.Errorf("ctr task ps: %s", ps)
	}
	if out, err := exec.Command(world.bin, "--root", world.state, "list", "--quiet").Output(); err != nil || !strings.Contains(string(out), id) {
		t.Errorf("corsa list: %s, %v", out, err)
	}
	ok(t, "task", "kill", "--signal", "KILL", id)
	eventually(t, "it is stopped", func() bool { return status(t, id) == "STOPPED" })
	if r := run(t, "task", "rm", id); !strings.Contains(r.err, "exit code 137") {
		t.Errorf("ctr task rm: %+v, want 137", r)
	}
	if got := status(t, id); got != "" {
		t.Errorf("the task is still there: %s", got)
	}
}

func TestExec(t *testing.T) {
	id, _ := start(t, []string{"--env", "A=1"}, "sleep", "1000")
	for command, code := range map[string]int{"true": 0, "false": 1, "exit 42": 42} {
		if r := execute(t, id, nil, "sh", "-c", command); r.code != code {
			t.Errorf("%s: %+v, want %d", command, r, code)
		}
	}
	if r := execute(t, id, []string{"--cwd", "/tmp", "--user", "app"}, "sh", "-c", "pwd; echo $A; id -u"); r.out != "/tmp\n1\n2001\n" {
		t.Errorf("%+v", r)
	}
	if r := execute(t, id, nil, "nosuch"); r.code == 0 || !strings.Contains(r.err, "executable file not found in $PATH") {
		t.Errorf("%+v", r)
	}
	ok(t, "task", "exec", "--detach", "--exec-id", "stays", "--fifo-dir", t.TempDir(), id, "sleep", "2000")
	eventually(t, "the program runs", func() bool { return strings.Contains(execute(t, id, nil, "ps").out, "sleep 2000") })
	ok(t, "task", "kill", "--exec-id", "stays", "--signal", "KILL", id)
	eventually(t, "the program has ended", func() bool { return !strings.Contains(execute(t, id, nil, "ps").out, "sleep 2000") })
}

func TestTerminals(t *testing.T) {
	id, own := container(t)
	inTerminal := func(want string, args ...string) {
		t.Helper()
		cmd := ctr(args...)
		shown, err := containertest.InTerminal(cmd, 33, 77, "this\n", deadline)
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		for _, part := range []string{"/dev/pts/", "33 77", "got-this"} {
			if !strings.Contains(shown, part) {
				t.Errorf("ctr %s: the terminal does not show %q: %q", strings.Join(args, " "), part, shown)
			}
		}
		if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != want {
			t.Errorf("exit code %s, want %s", got, want)
		}
	}
	// ctr gives the terminal its size after the program has begun; until then stty says nothing.
	const script = `tty; until [ "$(stty size 2>/dev/null)" ]; do sleep 0.02; done; stty size; read x; echo got-$x; exit 6`
	inTerminal("6", words("run", "--rm", "--tty", own, imageBusybox, id, "sh", "-c", script)...)
	ok(t, words("run", "--detach", "--null-io", own, imageBusybox, id, "sleep", "1000")...)
	inTerminal("6", "task", "exec", "--tty", "--exec-id", "terminal", id, "sh", "-c", script)
}

func TestPause(t *testing.T) {
	id, output := start(t, nil, counting...)
	eventually(t, "it counts", func() bool { return text(output) != "" })
	ok(t, "task", "pause", id)
	if got := status(t, id); got != "PAUSED" {
		t.Errorf("status %q", got)
	}
	time.Sleep(200 * time.Millisecond) // for what it has printed to arrive
	before := text(output)
	time.Sleep(500 * time.Millisecond)
	if after := text(output); after != before {
		t.Errorf("a paused container has printed %q", strings.TrimPrefix(after, before))
	}
	ok(t, "task", "resume", id)
	eventually(t, "it goes on", func() bool { return len(text(output)) > len(before) })
	if got := status(t, id); got != "RUNNING" {
		t.Errorf("status %q", got)
	}
}

func TestMetricsAndLimits(t *testing.T) {
	id, _ := start(t, []string{"--memory-limit", "33554432", "--cpus", "0.5"}, "sh", "-c", "while :; do :; done")
	metrics := ok(t, "task", "metrics", "--format", "json", id)
	var v map[string]any
	if err := json.Unmarshal([]byte(metrics), &v); err != nil {
		t.Fatalf("%v: %s", err, metrics)
	}
	if !strings.Contains(metrics, `limit": 33554432`) {
		t.Errorf("no limit of 32 MiB: %s", metrics)
	}
	for v1, want := range map[string]string{"cpu/%s/cpu.cfs_quota_us": "50000", "memory/%s/memory.limit_in_bytes": "33554432"} {
		path := filepath.Join("/sys/fs/cgroup", fmt.Sprintf(v1, world.namespace+"/"+id))
		if got := strings.TrimSpace(text(path)); got != want && got != "" {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestSignals(t *testing.T) {
	id, output := start(t, nil, "sh", "-c", `trap "echo hup" HUP; trap "echo term; exit 3" TERM; echo ready; while :; do sleep 0.05; done`)
	said := func(want string) {
		t.Helper()
		eventually(t, "it says "+want, func() bool { return strings.HasSuffix(text(output), want+"\n") })
	}
	said("ready")
	ok(t, "task", "kill", "--signal", "HUP", id)
	said("hup")
	ok(t, "task", "kill", id)
	said("term")
	eventually(t, "it is stopped", func() bool { return status(t, id) == "STOPPED" })
	if r := run(t, "task", "rm", id); !strings.Contains(r.err, "exit code 3") {
		t.Errorf("ctr task rm: %+v, want 3", r)
	}
}

// Whoever kills the first process, containerd sees it end.
func TestKilledFromOutside(t *testing.T) {
	id, _ := start(t, nil, "sleep", "1000")
	n, err := strconv.Atoi(pid(t, id))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "containerd sees it", func() bool { return status(t, id) == "STOPPED" })
	if r := run(t, "task", "rm", id); !strings.Contains(r.err, "exit code 137") {
		t.Errorf("ctr task rm: %+v, want 137", r)
	}
}

func TestRemoveByForce(t *testing.T) {
	id, _ := start(t, nil, "sleep", "1000")
	process := pid(t, id)
	if r := run(t, "task", "rm", id); r.code == 0 {
		t.Errorf("a running task is removed: %+v", r)
	}
	ok(t, "task", "rm", "--force", id)
	if _, err := os.Stat("/proc/" + process); err == nil {
		t.Errorf("process %s runs on", process)
	}
}

// Containers do not need the daemon.
func TestDaemonIsStartedAgain(t *testing.T) {
	id, output := start(t, nil, counting...)
	eventually(t, "it counts", func() bool { return text(output) != "" })
	if err := world.daemon.stop(); err != nil {
		t.Fatal(err)
	}
	before := text(output)
	eventually(t, "it counts without the daemon", func() bool { return len(text(output)) > len(before)+4 })
	if err := world.daemon.start(); err != nil {
		t.Fatal(err)
	}
	if got := status(t, id); got != "RUNNING" {
		t.Errorf("status %q", got)
	}
	if r := execute(t, id, nil, "echo", "there"); r.out != "there\n" {
		t.Errorf("%+v", r)
	}
}

func TestAnnotations(t *testing.T) {
	id, _ := start(t, []string{"--annotation", "org.example.a=b", "--annotation", "org.example.c=d,e"}, "sleep", "1000")
	out, err := exec.Command(world.bin, "--root", world.state, "state", id).Output()
	var state struct {
		Status      string
		Annotations map[string]string
	}
	if err == nil {
		err = json.Unmarshal(out, &state)
	}
	if err != nil || state.Status != "running" || state.Annotations["org.example.a"] != "b" || state.Annotations["org.example.c"] != "d,e" {
		t.Errorf("corsa state: %s, %v", out, err)
	}
}

func TestMountsAndReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := once(t, []string{"--read-only", "--mount", "type=bind,src=" + dir + ",dst=/mnt,options=rbind:ro"}, "sh", "-c", "cat /mnt/in; echo x >/mnt/no; echo x >/no")
	if r.out != "from outside\n" || strings.Count(r.err, "Read-only file system") != 2 {
		t.Errorf("%+v", r)
	}
}

func TestNamespaceOfAnotherContainer(t *testing.T) {
	first, _ := start(t, nil, "sleep", "1000")
	second := first + "-2"
	_, own := container(t)
	t.Cleanup(func() { remove(t, second) })
	link := func(id string) string { return execute(t, id, nil, "readlink", "/proc/self/ns/net").out }
	ok(t, words("run", "--detach", "--null-io", own, "--with-ns", "network:/proc/"+pid(t, first)+"/ns/net", imageBusybox, second, "sleep", "1000")...)
	if a, b := link(first), link(second); a == "" || a != b {
		t.Errorf("network namespaces %q and %q", a, b)
	}
}

func TestSeccompAndCapabilities(t *testing.T) {
	const script = "grep -E 'Seccomp:|CapEff' /proc/self/status; unshare -m true"
	r := once(t, []string{"--seccomp"}, "sh", "-c", script)
	if !strings.Contains(r.out, "Seccomp:\t2") || !strings.Contains(r.err, "Operation not permitted") {
		t.Errorf("with the default profile: %+v", r)
	}
	r = once(t, []string{"--privileged"}, "sh", "-c", script)
	if !strings.Contains(r.out, "Seccomp:\t0") || r.code != 0 {
		t.Errorf("privileged: %+v", r)
	}
}
