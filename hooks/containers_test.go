package hooks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/hooks"
)

// programsVariable names a directory with corsa-binderfs-hook and corsa-servicemanager for a machine that cannot build them.
const programsVariable = "CORSA_HOOK_PROGRAMS"

// programs is the directory with the programs, once buildPrograms has been called.
var programs string

var buildPrograms = sync.OnceValue(func() error {
	if programs = os.Getenv(programsVariable); programs != "" {
		return nil
	}
	var err error
	if programs, err = os.MkdirTemp("", "corsa-hooks-"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", programs+"/", "./corsa-binderfs-hook", "../binderfs/servicemanager/corsa-servicemanager")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // they are to run in a root with nothing else
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, text)
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if programs != "" && os.Getenv(programsVariable) == "" {
		if err := os.RemoveAll(programs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// box is a container for one test: its root directory, and what runs in it.
type box struct {
	id     string
	cgroup string
	dir    string // everything is in here
	rootfs string
	hook   string
	script string

	devices   []string
	publish   string // "" for no
	uid       uint32
	usernames bool // root of the container is nobody on the host
}

// script has a service manager on each device answer a client, and waits for a file then.
const script = `
set -e
exec >/share/said 2>&1
for d in %[1]s; do corsa-servicemanager --device /dev/$d serve >/share/said-$d & done
for d in %[1]s; do
	n=0
	until l=$(corsa-servicemanager --device /dev/$d list 2>&1); do
		n=$((n + 1))
		[ $n -lt 300 ] || { echo "$d: $l"; exit 1; }
		sleep 0.1
	done
	echo "answer on $d"
done
echo "devices" $(ls /dev/binderfs)
>/share/ready
while [ ! -e /share/end ]; do sleep 0.1; done
kill $(jobs -p)
`

func newBox(t *testing.T, id string, devices ...string) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("root: starting containers needs it")
	}
	if err := buildPrograms(); err != nil {
		t.Fatal(err)
	}
	b := &box{id: fmt.Sprintf("corsa-hook-%s-%d", id, os.Getpid()), dir: t.TempDir(), hook: filepath.Join(programs, "corsa-binderfs-hook"), devices: devices}
	b.cgroup = "/" + b.id
	b.rootfs = filepath.Join(b.dir, "rootfs")
	b.script = fmt.Sprintf(script, strings.Join(devices, " "))
	for _, dir := range []string{"bin", "dev", "proc", "sys", "share", "tmp", "etc", "run", "var"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{busybox, filepath.Join(programs, "corsa-servicemanager")} {
		b.copy(t, path)
	}
	for _, applet := range []string{"sh", "ls", "sleep", "kill"} {
		if err := os.Symlink("busybox", filepath.Join(b.rootfs, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	for path := b.dir; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil { // for those who are not root
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(b.rootfs, "share"), 0o777); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *box) copy(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "bin", filepath.Base(path)), text, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (b *box) annotations() map[string]string {
	a := map[string]string{hooks.AnnotationDevices: strings.Join(b.devices, ",")}
	if b.publish != "" {
		a[hooks.AnnotationPublish] = b.publish
	}
	return a
}

// write puts a value into a file of the box as JSON.
func (b *box) write(t *testing.T, name string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// running is a container that has been started.
type running struct {
	*box
	out  bytes.Buffer // complete when done is closed
	err  error
	done chan struct{}
}

// start starts the command that runs the container in the foreground. It is ended with the test.
func (b *box) start(t *testing.T, program string, args ...string) *running {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s: not installed; run: make deps", program)
	}
	r := &running{box: b, done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = b.dir
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cancel()
		r.err = cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		if err := r.end(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return r
}

// ready waits until the container has done all, or returns what it said instead.
func (r *running) ready() error {
	for {
		if _, err := os.Stat(filepath.Join(r.rootfs, "share/ready")); err == nil {
			return nil
		}
		select {
		case <-r.done:
			return errors.Join(errors.New("the container has ended"), r.err, errors.New(r.out.String()+r.said()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// said is what the programs in the container have said.
func (r *running) said() string {
	text, err := os.ReadFile(filepath.Join(r.rootfs, "share/said"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// end has the container end by itself.
func (r *running) end() error {
	if err := os.WriteFile(filepath.Join(r.rootfs, "share/end"), nil, 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	<-r.done
	return nil
}

// binderMounts are those that this process sees.
func binderMounts() []string { return binderfs.Probe().Mounts }

// verify looks at a container from its start to its end: where there is Binder it works, where there is none the runtime
// passes on why, and either way nothing is left.
func verify(t *testing.T, r *running) {
	t.Helper()
	before := binderMounts()
	err := r.ready()
	if support := binderfs.Probe(); support.Offer != binderfs.OfferFilesystem {
		if err == nil {
			t.Fatal("the container runs on a kernel without Binder")
		}
		for _, part := range []string{"container ", binderfs.ErrUnsupported.Error(), support.Detail, "way out: " + support.WayOut} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the runtime does not say %q:\n%v", part, err)
			}
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.end(), r.err); err != nil {
		t.Fatalf("%v\n%s", err, r.out.String())
	}
	all := slices.Sorted(slices.Values(append([]string{"binder-control", "features"}, r.devices...)))
	said := r.said()
	want := []string{"devices " + strings.Join(all, " ")}
	for _, d := range r.devices {
		want = append(want, "answer on "+d)
	}
	for _, line := range want {
		if !slices.Contains(strings.Split(said, "\n"), line) {
			t.Errorf("the container does not say %q:\n%s", line, said)
		}
	}
	if after := binderMounts(); !slices.Equal(before, after) {
		t.Errorf("mounts on the host are %q, they were %q", after, before)
	}
	entries, err := os.ReadDir(filepath.Join(r.rootfs, "dev"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries { // some runtimes leave mount points of their own
		if name := e.Name(); name == "binderfs" || slices.Contains(r.devices, name) {
			t.Errorf("/dev/%s is left in the root directory", name)
		}
	}
}

func ask(device string) error {
	text, err := exec.Command(filepath.Join(programs, "corsa-servicemanager"), "--device", device, "list").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", device, err, bytes.TrimSpace(text))
	}
	return nil
}

func isMounted(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.BINDERFS_SUPER_MAGIC
}

// Two containers have each their own Binder, one of which the host sees as well, until it ends.
func TestPublish(t *testing.T) {
	published := filepath.Join(t.TempDir(), "binder")
	one, other := newBox(t, "one", "binder", "hwbinder"), newBox(t, "other", "binder")
	one.publish = published
	a := one.startRunc(t)
	if binderfs.Probe().Offer != binderfs.OfferFilesystem {
		verify(t, a)
		if _, err := os.Stat(published); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of the host: %v", err)
		}
		return
	}
	b := other.startRunc(t)
	for _, r := range []*running{a, b} {
		if err := r.ready(); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range one.devices {
		if err := ask(filepath.Join(published, d)); err != nil {
			t.Error(err)
		}
	}
	// The place is taken.
	third := newBox(t, "third", "binder")
	third.publish = published
	if err := third.startRunc(t).ready(); err == nil || !strings.Contains(err.Error(), "a binderfs is mounted there") {
		t.Errorf("another container that publishes in the same place: %v", err)
	}
	// So is the name, for other places: who would take back which?
	namesake := newBox(t, "one", "binder")
	namesake.cgroup += "-namesake"
	namesake.publish = filepath.Join(t.TempDir(), "binder")
	if err := namesake.startRunc(t).ready(); err == nil || !strings.Contains(err.Error(), "choose another id") {
		t.Errorf("another container of the same name: %v", err)
	}
	if err := errors.Join(b.end(), b.err); err != nil {
		t.Errorf("%v\n%s", err, b.out.String())
	}
	if err := ask(filepath.Join(published, "binder")); err != nil {
		t.Errorf("after the end of another container: %v", err)
	}
	if err := errors.Join(a.end(), a.err); err != nil {
		t.Errorf("%v\n%s", err, a.out.String())
	}
	if _, err := os.Stat(published); !errors.Is(err, fs.ErrNotExist) || isMounted(published) {
		t.Errorf("the directory of the host after the container's end: %v", err)
	}
	if entries, err := os.ReadDir("/run/corsa-binderfs-hook"); err == nil && len(entries) > 0 {
		t.Errorf("records are left: %v", entries)
	}
}

func TestRunc(t *testing.T) {
	verify(t, newBox(t, "runc", "binder", "hwbinder", "vndbinder").startRunc(t))
}

// The devices are for everybody in the container.
func TestRuncUser(t *testing.T) {
	b := newBox(t, "user", "binder")
	b.uid = 1000
	verify(t, b.startRunc(t))
}

func TestRuncUserNamespace(t *testing.T) {
	b := newBox(t, "userns", "binder", "hwbinder")
	b.usernames = true
	verify(t, b.startRunc(t))
}

func TestCrun(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("cgroup v2 alone: crun does not support hosts that have both versions")
	}
	verify(t, newBox(t, "crun", "binder", "hwbinder").startOCI(t, "crun"))
}

func TestPodman(t *testing.T) {
	b := newBox(t, "podman", "binder", "hwbinder")
	b.installHook(t)
	verify(t, b.startPodman(t))
}

// A container that asks for nothing does not get it, and starts on any kernel.
func TestPodmanWithout(t *testing.T) {
	b := newBox(t, "without")
	b.installHook(t)
	b.script = "ls /dev; echo ready >/share/ready"
	r := b.startPodman(t)
	<-r.done
	if r.err != nil || strings.Contains(r.out.String(), "binder") {
		t.Errorf("%v\n%s", r.err, r.out.String())
	}
}

func TestLXC(t *testing.T) {
	b := newBox(t, "lxc", "binder", "hwbinder")
	verify(t, b.startLXC(t, "autodev"))
}

// Waydroid's container, for one, has a /dev that LXC does not fill.
func TestLXCWithoutAutodev(t *testing.T) {
	b := newBox(t, "mount", "binder")
	verify(t, b.startLXC(t, "mount"))
}
