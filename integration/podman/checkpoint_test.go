package podman

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"corsa.dev/corsa/integration/containertest"
)

// keepsCounting fails unless a container that counts has not begun anew, and counts on.
func keepsCounting(t *testing.T, name string, from int) {
	t.Helper()
	first := lastCount(t, name)
	if first < from {
		t.Errorf("%s counts from %d, it was at %d", name, first, from)
	}
	eventually(t, name+" counts on", func() bool { return lastCount(t, name) > first })
}

// countingFile is counting, in a file and on standard output.
var countingFile = []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 0.1; done"}

// lastCount is where a container is.
func lastCount(t *testing.T, name string) int {
	t.Helper()
	var n int
	r := run(t, "exec", name, "cat", "/count")
	if _, err := fmt.Sscan(r.out, &n); err != nil {
		return 0 // it is being written at this moment
	}
	return n
}

// startCounting starts a container that can be checkpointed and has counted.
func startCounting(t *testing.T, flags ...string) string {
	t.Helper()
	needCRIU(t)
	name := start(t, flags, countingFile...)
	eventually(t, "it counts", func() bool { return lastCount(t, name) > 2 })
	return name
}

func needCRIU(t *testing.T) {
	t.Helper()
	if world.skip == "" && world.criu.Dir == "" {
		t.Skip("podman takes no checkpoints without a CRIU of its liking, and corsa has none: make deps")
	}
}

func TestCheckpointAndRestore(t *testing.T) {
	name := startCounting(t)
	ok(t, "container", "checkpoint", name)
	prints(t, "exited true", "container", "inspect", "--format", "{{.State.Status}} {{.State.Checkpointed}}", name)
	printed := lines(t, name)
	ok(t, "container", "restore", name)
	keepsCounting(t, name, 3)
	eventually(t, "what it prints is logged", func() bool { return lines(t, name) > printed })
	ok(t, "container", "checkpoint", name) // of what was restored
	ok(t, "container", "restore", name)
	keepsCounting(t, name, 3)
	ok(t, "stop", "--time", "0", name)
	prints(t, "137", "container", "inspect", "--format", "{{.State.ExitCode}}", name)
}

func TestCheckpointLeavesItRunning(t *testing.T) {
	name := startCounting(t)
	pid := inspect(t, name, ".State.Pid")
	ok(t, "container", "checkpoint", "--leave-running", name)
	prints(t, "running "+pid, "container", "inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name)
	keepsCounting(t, name, 3)
}

// Of one archive come two containers, beside the one that it was made of.
func TestExportAndImportTwice(t *testing.T) {
	name := startCounting(t)
	archive := filepath.Join(t.TempDir(), "container.tar.gz")
	ok(t, "container", "checkpoint", "--compress", "gzip", "--export", archive, name)
	for _, suffix := range []string{"-a", "-b"} {
		t.Cleanup(func() { remove(t, name+suffix) })
		ok(t, "container", "restore", "--import", archive, "--name", name+suffix)
	}
	ok(t, "container", "restore", name)
	for _, n := range []string{name, name + "-a", name + "-b"} {
		keepsCounting(t, n, 3)
	}
	if a, b := inspect(t, name+"-a", ".Id"), inspect(t, name+"-b", ".Id"); a == b {
		t.Errorf("both are %s", a)
	}
}

func TestCheckpointOfATerminal(t *testing.T) {
	name := startCounting(t, "--tty")
	ok(t, "container", "checkpoint", name)
	ok(t, "container", "restore", name)
	keepsCounting(t, name, 3)
	cmd := podman("exec", "--interactive", "--tty", name, "sh", "-c", sized+"stty size; exit 5")
	shown, err := containertest.InTerminal(cmd, 44, 66, "", deadline)
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 5 || !strings.Contains(shown, "44 66") {
		t.Errorf("exec --tty after a restore: %q, %v", shown, err)
	}
}

// A connection within the container goes on after its restore.
func TestCheckpointWithAConnection(t *testing.T) {
	needCRIU(t)
	if world.skip == "" && !world.criu.TCP {
		t.Skip("criu-tcp: this CRIU cannot dump TCP sockets here")
	}
	name := start(t, []string{"--network", "none"}, "sh", "-c",
		`(while :; do sleep 1000; done | nc -l -p 7000 >/got) & sleep 0.5; (i=0; while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 0.1; done) | nc 127.0.0.1 7000`)
	got := func() string { return run(t, "exec", name, "tail", "-n", "1", "/got").out }
	eventually(t, "bytes flow", func() bool { return len(got()) > 0 })
	if r := run(t, "container", "checkpoint", name); r.code == 0 || !strings.Contains(r.err, "--tcp-established") {
		t.Errorf("without the flag: %+v", r)
	}
	ok(t, "container", "checkpoint", "--tcp-established", name)
	ok(t, "container", "restore", "--tcp-established", name)
	before := got()
	eventually(t, "bytes flow on", func() bool { return got() != before })
}

// A virtualised service is refused, and nothing happens to it.
func TestCheckpointOfAService(t *testing.T) {
	needCRIU(t)
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	if r := run(t, "container", "checkpoint", s.name); r.code == 0 || !strings.Contains(r.err, "service") {
		t.Errorf("%+v", r)
	}
	s.expect("one", 2001, "get", "k")
	prints(t, "running", "container", "inspect", "--format", "{{.State.Status}}", s.name)
}

// What podman asks a runtime before it uses it.
func TestProbes(t *testing.T) {
	if world.skip != "" {
		t.Skip(world.skip)
	}
	if out, err := exec.Command(world.bin, "checkpoint", "--help").CombinedOutput(); err != nil {
		t.Errorf("checkpoint --help: %v: %s", err, out)
	}
	out, err := exec.Command(world.bin, "restore", "--lsm-mount-context").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "flag needs an argument") {
		t.Errorf("restore --lsm-mount-context: %v: %s", err, out)
	}
	out, err = exec.Command(world.bin, "features").Output()
	if err != nil || !strings.Contains(string(out), `"ociVersionMax"`) {
		t.Errorf("features: %v: %s", err, out)
	}
	prints(t, "corsa", "info", "--format", "{{.Host.OCIRuntime.Name}}")
}
