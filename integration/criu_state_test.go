package integration

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// python makes a bundle whose program is a script for the host's python3, which is bound into it with its libraries.
func (d *dumpable) python(script string) string {
	d.t.Helper()
	const interpreter = "/usr/bin/python3"
	if _, err := os.Stat(interpreter); err != nil {
		d.t.Skipf("needs python3 (make deps installs it): %v", err)
	}
	b := d.bundle("", func(s *specs.Spec) {
		for _, dir := range []string{"/usr", "/lib", "/lib64"} {
			if _, err := os.Stat(dir); err == nil {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Type: "bind", Options: []string{"rbind", "ro"}})
			}
		}
		s.Process.Args = []string{interpreter, "/state/script.py"}
	})
	if err := os.WriteFile(filepath.Join(b, "rootfs/state/script.py"), []byte(script), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return b
}

// countTo is a function for scripts of python: what they have come to is seen outside.
const countTo = `
import os, sys, time, socket, fcntl, ctypes, hashlib
def count(n):
    for step in lambda: os.symlink(str(n), "/state/new"), lambda: os.rename("/state/new", "/state/n"):
        try: step()
        except (FileExistsError, FileNotFoundError): pass
def countForEver():
    n = 0
    while True:
        n += 1
        count(n)
        time.sleep(0.02)
`

// streamingScript sends numbers over an established connection within the container. The receiver counts only as long as none is
// lost, repeated or changed.
const streamingScript = countTo + `
l = socket.socket()
l.bind(("127.0.0.1", 7000))
l.listen()
if os.fork() == 0:
    s = socket.create_connection(("127.0.0.1", 7000))
    n = 0
    while True:
        n += 1
        s.sendall(n.to_bytes(8, "big"))
        time.sleep(0.005)
s, _ = l.accept()
want = 0
while True:
    want += 1
    got = s.recv(8, socket.MSG_WAITALL)
    if got != want.to_bytes(8, "big"):
        open("/state/broken", "w").write("%d: %r" % (want, got))
        sys.exit(1)
    count(want)
`

func TestLoopbackConnectionGoesOnAfterRestore(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("tcp"), d.python(streamingScript)
	d.start(id, bundle)
	if result, detail := criuProbe(t, corsaBin, "criu-tcp"); result == "no" {
		t.Skipf("this CRIU cannot dump TCP sockets here: %s", detail)
	}
	for round := range 2 {
		img := d.image(string(rune('a' + round)))
		d.ok("checkpoint", "--tcp-established", "--image-path", img, id)
		last := d.count(bundle)
		d.mustDetach("restore", "--detach", "--tcp-established", "--image-path", img, "--bundle", bundle, id)
		eventually(t, "bytes keep flowing", func() bool { return d.count(bundle) > last+50 })
	}
	if broken, err := os.ReadFile(filepath.Join(bundle, "rootfs/state/broken")); err == nil {
		t.Errorf("the connection did not go on: %s", broken)
	}
}

// memoryScript counts only while 64 MiB of memory are what they were. Meanwhile one page of other memory changes.
const memoryScript = countTo + `
memory = os.urandom(64 << 20)
digest = hashlib.sha256(memory).digest()
scratch = bytearray(1 << 20)
n = 0
while hashlib.sha256(memory).digest() == digest:
    n += 1
    scratch[0] = n % 256
    count(n)
`

func TestMemoryComesBackAlsoFromAParent(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("mem"), d.python(memoryScript)
	d.start(id, bundle)
	d.ok("checkpoint", "--leave-running", "--image-path", d.image("whole"), id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--leave-running", "--image-path", d.image("second"), "--parent-path", "../whole", id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--image-path", d.image("third"), "--parent-path", "../second", id)
	whole, second, third := pages(t, d.image("whole")), pages(t, d.image("second")), pages(t, d.image("third"))
	if whole < 64<<20 || second > whole/4 || third > whole/4 {
		t.Errorf("pages in bytes: %d in the whole image, %d and %d in those with a parent", whole, second, third)
	}
	for _, image := range []string{"third", "second", "whole"} {
		d.mustDetach("restore", "--detach", "--image-path", d.image(image), "--bundle", bundle, id)
		d.countsOn(bundle)
		d.ok("delete", "--force", id)
	}
	d.fails(1, "parent image: stat", "checkpoint", "--image-path", d.image("x"), "--parent-path", "../none", runAgain(d, id, bundle))
}

// runAgain starts a container of bundle.
func runAgain(d *dumpable, id, bundle string) string {
	d.t.Helper()
	d.start(id, bundle)
	return id
}

// pages are the bytes of memory in an image.
func pages(t *testing.T, dir string) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pages-*.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += fi.Size()
	}
	return sum
}

func TestPreDumpNeedsSoftDirty(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("pre"), d.bundle(counter, nil)
	d.start(id, bundle)
	if result, _ := criuProbe(t, corsaBin, "criu-pre-dump"); result == "no" {
		d.fails(1, "this kernel has no CONFIG_MEM_SOFT_DIRTY", "checkpoint", "--pre-dump", "--image-path", d.image("pre"), id)
		d.countsOn(bundle)
		return
	}
	d.ok("checkpoint", "--pre-dump", "--image-path", d.image("pre"), id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--parent-path", "../pre", "--image-path", d.image("rest"), id)
	d.mustDetach("restore", "--detach", "--image-path", d.image("rest"), "--bundle", bundle, id)
	d.countsOn(bundle)
}

func TestPausedContainerStaysPaused(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("paused"), d.bundle(counter, nil)
	d.start(id, bundle)
	d.ok("pause", id)
	d.ok("checkpoint", "--leave-running", "--image-path", d.image("p"), id)
	if state := d.ok("state", id); !strings.Contains(state, `"paused"`) {
		t.Errorf("after a checkpoint the paused container is %s", state)
	}
	d.ok("resume", id)
	d.countsOn(bundle)
	d.ok("delete", "--force", id)
	d.mustDetach("restore", "--detach", "--image-path", d.image("p"), "--bundle", bundle, id)
	d.countsOn(bundle)
}

func TestOutputToAFileOfTheHost(t *testing.T) {
	d := newDumpable(t)
	id := unique("out")
	bundle := d.bundle(`n=0; while :; do n=$((n+1)); echo $n; `+countShell+`; sleep 0.02; done`, nil)
	run := func(file string, args ...string) {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd := d.command(args...)
		cmd.Stdout, cmd.Stderr = f, f
		if err := cmd.Run(); err != nil {
			text, _ := os.ReadFile(file)
			t.Fatalf("corsa %v: %v: %s", args, err, text)
		}
	}
	run(d.image("first"), "run", "--detach", "--bundle", bundle, id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--image-path", d.image("img"), id)
	run(d.image("second"), "restore", "--detach", "--image-path", d.image("img"), "--bundle", bundle, id)
	d.countsOn(bundle)
	d.ok("delete", "--force", id)
	first, err := os.ReadFile(d.image("first"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(d.image("second"))
	if err != nil {
		t.Fatal(err)
	}
	// A line may have been counted and printed, or counted only.
	lines := strings.Fields(string(first) + string(second))
	if len(strings.Fields(string(second))) == 0 {
		t.Fatal("what was restored prints nothing")
	}
	for i, l := range lines {
		if want := i + 1; l != strconv.Itoa(want) {
			t.Fatalf("line %d is %q; first file %q, second %q", want, l, first, second)
		}
	}
}

// Without --detach restore stays, as run does: it passes on what is printed, and the exit code.
func TestAttachedRestore(t *testing.T) {
	d := newDumpable(t)
	id := unique("stay")
	bundle := d.bundle(`n=0; echo 0 > /state/n; until [ -e /state/go ]; do sleep 0.02; done; echo the end; exit 7`, nil)
	d.mustDetach("run", "--detach", "--bundle", bundle, id)
	eventually(t, "it waits", func() bool {
		_, err := os.Stat(filepath.Join(bundle, "rootfs/state/n"))
		return err == nil
	})
	d.ok("checkpoint", "--image-path", d.image("null"), id)

	// What was printed to a pipe goes to the pipe of whoever restores it.
	run := d.command("run", "--bundle", bundle, id)
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool {
		_, _, code := d.run("", "exec", id, "/bin/true")
		return code == 0
	})
	d.ok("checkpoint", "--image-path", d.image("pipe"), id)
	if _, err := io.ReadAll(out); err != nil {
		t.Error(err)
	}
	_ = run.Wait() // its container was taken away
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/state/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := d.run("", "restore", "--image-path", d.image("pipe"), "--bundle", bundle, id)
	if code != 7 || stdout != "the end\n" {
		t.Errorf("exit code %d, output %q, %s", code, stdout, stderr)
	}
	d.nothingLeft(id)
	if stdout, stderr, code := d.run("", "restore", "--image-path", d.image("null"), "--bundle", bundle, id); code != 7 {
		t.Errorf("exit code %d, output %q, %s", code, stdout, stderr)
	}
	d.nothingLeft(id)
}

// A terminal is restored, and its new master goes to the console socket.
func TestTerminalIsRestored(t *testing.T) {
	d := newDumpable(t)
	id := unique("tty")
	bundle := d.bundle(`echo ready; while read x; do echo got $x; done`, func(s *specs.Spec) { s.Process.Terminal = true })
	socket := filepath.Join(t.TempDir(), "console.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.mustDetach("run", "--detach", "--console-socket", socket, "--bundle", bundle, id)
	console := receiveFile(t, l)
	expect(t, console, "ready")
	d.ok("checkpoint", "--image-path", d.image("img"), id)

	stderr, code := d.detached("restore", "--detach", "--image-path", d.image("img"), "--bundle", bundle, id)
	if code == 0 || !strings.Contains(stderr, "--console-socket is needed") {
		t.Errorf("without a console socket: exit code %d, %s", code, stderr)
	}
	d.mustDetach("restore", "--detach", "--console-socket", socket, "--image-path", d.image("img"), "--bundle", bundle, id)
	console = receiveFile(t, l)
	send(t, console, "hello\n")
	expect(t, console, "got hello")
}

func TestLazyPagesFromTheImage(t *testing.T) {
	d := newDumpable(t)
	if result, detail := criuProbe(t, corsaBin, "criu-lazy-pages"); result == "no" {
		t.Skipf("CRIU cannot load memory lazily here: %s", detail)
	}
	id, bundle := unique("lazy"), d.bundle(counter, nil)
	d.start(id, bundle)
	img := d.image("img")
	d.ok("checkpoint", "--image-path", img, id)
	last := d.count(bundle)
	program := os.Getenv("CORSA_CRIU")
	if program == "" {
		program = "criu"
	}
	server := exec.Command(program, "lazy-pages", "-D", img, "-W", img)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill() // it ends by itself when all pages are there
		_ = server.Wait()
	}()
	eventually(t, "pages are served", func() bool {
		_, err := os.Stat(filepath.Join(img, "lazy-pages.socket"))
		return err == nil
	})
	d.mustDetach("restore", "--detach", "--lazy-pages", "--work-path", img, "--image-path", img, "--bundle", bundle, id)
	if from := d.countsOn(bundle); from < last {
		t.Errorf("it counts on from %d, the dump was at %d", from, last)
	}
}

func TestCheckpointsAreMeasured(t *testing.T) {
	d := newDumpable(t)
	var report struct {
		Rows []struct {
			Name, Service string
			Value         struct{ N int }
		}
	}
	out := d.ok("measure", "checkpoint", "--rounds", "1", "--mib", "1", "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen := map[string]bool{}
	for _, r := range report.Rows {
		seen[r.Name+", "+r.Service] = r.Value.N == 1
	}
	for _, name := range []string{"dump, it ends, 1 MiB", "dump, the container goes on, 1 MiB", "restore, 1 MiB"} {
		if !seen[name] {
			t.Errorf("%s is not there, or not of one round: %s", name, out)
		}
	}
}
