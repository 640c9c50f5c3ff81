package integration

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// killedVerb is a command that TestKilledAtAnyInstant kills.
type killedVerb struct {
	name  string
	state string                    // that the container is in before: none, image, created, running, paused or stopped
	args  func(k *killing) []string // of corsa, for container k.id
	after []string                  // states that the container may be in when the command has been killed; "" is: does not exist
}

// killedVerbs are killed in turn.
var killedVerbs = []killedVerb{
	{"create", "none", func(k *killing) []string { return []string{"create", "-b", k.dir, "--pid-file", k.pidFile, k.id} }, []string{"", "created", "stopped"}},
	{"create with hooks", "none", func(k *killing) []string { return []string{"create", "-b", k.hooked, "--pid-file", k.pidFile, k.id} }, []string{"", "created", "stopped"}},
	{"run", "none", func(k *killing) []string { return []string{"run", "-b", k.short, k.id} }, []string{"", "created", "running", "stopped"}},
	{"run --detach", "none", func(k *killing) []string { return []string{"run", "-d", "-b", k.dir, k.id} }, []string{"", "created", "running", "stopped"}},
	{"start", "created", func(k *killing) []string { return []string{"start", k.id} }, []string{"created", "running"}},
	{"exec", "running", func(k *killing) []string { return []string{"exec", k.id, "true"} }, []string{"running"}},
	{"exec --detach", "running", func(k *killing) []string { return []string{"exec", "-d", k.id, "sleep", "1000"} }, []string{"running"}},
	{"pause", "running", func(k *killing) []string { return []string{"pause", k.id} }, []string{"running", "paused"}},
	{"resume", "paused", func(k *killing) []string { return []string{"resume", k.id} }, []string{"running", "paused"}},
	{"kill", "running", func(k *killing) []string { return []string{"kill", k.id, "KILL"} }, []string{"running", "stopped"}},
	{"kill a paused one", "paused", func(k *killing) []string { return []string{"kill", k.id, "KILL"} }, []string{"running", "paused", "stopped"}},
	{"update", "running", func(k *killing) []string { return []string{"update", "--memory", "64M", "--pids-limit", "99", k.id} }, []string{"running"}},
	{"delete", "stopped", func(k *killing) []string { return []string{"delete", k.id} }, []string{"", "stopped"}},
	{"delete --force", "running", func(k *killing) []string { return []string{"delete", "--force", k.id} }, []string{"", "running", "stopped"}},
	{"checkpoint", "running", func(k *killing) []string { return []string{"checkpoint", "--image-path", k.newImage(), k.id} }, []string{"", "running", "paused", "stopped"}},
	{"restore", "image", func(k *killing) []string {
		return []string{"restore", "--detach", "-b", k.dir, "--image-path", k.image, k.id}
	}, []string{"", "running"}},
	{"delete --force a paused one", "paused", func(k *killing) []string { return []string{"delete", "--force", k.id} }, []string{"", "running", "paused", "stopped"}},
}

// killing is what the rounds share.
type killing struct {
	*corsa
	id         string
	dir, short string // bundles, of a program that stays and of one that ends
	hooked     string // bundle with hooks that take their time
	bad        string // bundle that has something wrong with it
	pidFile    string
	image      string // what a container like that of dir was like when it ran
	images     int
	trees      string // what the bundles were like
}

// TestKilledAtAnyInstant kills corsa, alone or with its process group, at a random system call or after a random time of
// every verb, $CORSA_KILL_ROUNDS times. Afterwards the container is in one of the states that the verb knows, and delete --force
// removes all of it and nothing else. A failure names the seed; with $CORSA_KILL_SEED the same is done again.
func TestKilledAtAnyInstant(t *testing.T) {
	k := newKilling(t)
	verbs := killedVerbs
	if result, detail := criuProbe(t, corsaBin, "criu"); result == "yes" {
		k.takeImage()
	} else {
		t.Logf("checkpoint and restore are left out, since they need CRIU (make deps provides one): %s, %s", result, detail)
		verbs = slices.DeleteFunc(slices.Clone(verbs), func(v killedVerb) bool { return v.name == "checkpoint" || v.name == "restore" })
	}
	rounds := number(t, "CORSA_KILL_ROUNDS", 200)
	seed := uint64(number(t, "CORSA_KILL_SEED", int(time.Now().UnixNano()&0xffffff)))
	random := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("again: CORSA_KILL_SEED=%d CORSA_KILL_ROUNDS=%d", seed, rounds)
		}
	}()
	calls, took := map[string]int{}, map[string]time.Duration{}
	for i := 0; i < rounds && !t.Failed(); i++ {
		v := &verbs[i%len(verbs)]
		how := i / len(verbs)
		group := how/2%2 == 1
		k.bring(v.state)
		args := append([]string{corsaBin, "--root", k.root}, v.args(k)...)
		switch {
		case calls[v.name] == 0: // once to its end, to see how much there is to choose from
			calls[v.name] = killAtCall(t, args, 1<<30, false)
			t.Logf("round %d: %s, %d system calls", i, v.name, calls[v.name])
		case took[v.name] == 0:
			took[v.name] = killAfter(t, args, 10*time.Second, false)
			t.Logf("round %d: %s, %v", i, v.name, took[v.name])
		case how%2 == 0:
			n := 1 + random.IntN(calls[v.name])
			t.Logf("round %d: %s, killed at system call %d of %d, group %t", i, v.name, n, calls[v.name], group)
			killAtCall(t, args, n, group)
		default:
			d := time.Duration(random.Int64N(int64(took[v.name])))
			t.Logf("round %d: %s, killed after %v of %v, group %t", i, v.name, d, took[v.name], group)
			killAfter(t, args, d, group)
		}
		k.settle()
		k.checkState(v)
		k.remove()
	}
}

func newKilling(t *testing.T) *killing {
	t.Helper()
	k := &killing{corsa: newCorsa(t), id: containerID(t), pidFile: filepath.Join(t.TempDir(), "pid")}
	cgroup := func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + k.id }
	k.dir = busyboxBundle(t, k.corsa, cgroup, "sleep", "1000")
	k.short = k.sibling(func(s *specs.Spec) { s.Process.Args = []string{"true"} })
	k.hooked = k.sibling(func(s *specs.Spec) {
		host := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "0.02"}}}
		s.Hooks = &specs.Hooks{
			CreateRuntime: host, CreateContainer: host, Poststart: host,
			StartContainer: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "0.02"}}}, Poststop: host,
		}
	})
	k.trees = k.hash()
	// What corsa leaves without a parent becomes a child of this test.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	stop := reapOrphans(t)
	t.Cleanup(func() {
		stop()
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
	return k
}

// sibling is a bundle with the root of k.dir and a config.json of its own.
func (k *killing) sibling(change func(*specs.Spec)) string {
	k.t.Helper()
	dir := k.t.TempDir()
	data, err := os.ReadFile(filepath.Join(k.dir, "config.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	editSpec(k.t, dir, func(s *specs.Spec) {
		s.Root.Path = filepath.Join(k.dir, "rootfs")
		change(s)
	})
	return dir
}

func (k *killing) hash() string {
	sum := treeHash(k.t, k.dir) + treeHash(k.t, k.short) + treeHash(k.t, k.hooked)
	if k.image != "" {
		sum += treeHash(k.t, k.image)
	}
	return sum
}

// bring creates the container and brings it to that state.
func (k *killing) bring(state string) {
	k.t.Helper()
	if state == "none" || state == "image" {
		return
	}
	if state == "created" {
		k.quiet("create", "-b", k.dir, k.id)
		return
	}
	k.quiet("run", "--detach", "-b", k.dir, k.id)
	switch state {
	case "paused":
		k.ok("pause", k.id)
	case "stopped":
		k.ok("kill", k.id, "KILL")
		eventually(k.t, "it has stopped", func() bool { return k.state(k.id).Status == "stopped" })
	}
}

// quiet runs corsa, which must succeed, with /dev/null as its standard streams, which a container then has, too.
func (k *killing) quiet(args ...string) {
	k.t.Helper()
	if err := k.command(args...).Run(); err != nil {
		k.t.Fatalf("corsa %s: %v", strings.Join(args, " "), err)
	}
}

// newImage is a directory for an image.
func (k *killing) newImage() string {
	k.images++
	return filepath.Join(k.t.TempDir(), fmt.Sprintf("image%d", k.images))
}

// takeImage makes k.image.
func (k *killing) takeImage() {
	k.t.Helper()
	image := k.newImage()
	k.bring("running")
	k.ok("checkpoint", "--image-path", image, k.id)
	k.remove()
	k.image = image
	k.trees = k.hash()
}

// settle waits for what corsa leaves behind to clean up after it.
func (k *killing) settle() {
	k.t.Helper()
	eventually(k.t, "what watches over a checkpoint or restore has ended", func() bool {
		return !slices.ContainsFunc(orphans(k.t), func(p string) bool {
			_, comm, _ := strings.Cut(p, " ")
			return comm == filepath.Base(corsaBin) || comm == "exe" || strings.HasPrefix(comm, "criu") || strings.HasPrefix(comm, "ld-linux")
		})
	})
}

// checkState wants the container in one of v's states, and what can be done then to work.
func (k *killing) checkState(v *killedVerb) {
	k.t.Helper()
	var list []containerState
	if err := json.Unmarshal([]byte(k.ok("list", "--json")), &list); err != nil {
		k.t.Error(err)
	}
	stdout, stderr, code := k.run("", "state", k.id)
	status := ""
	if code == 0 {
		var st containerState
		if err := json.Unmarshal([]byte(stdout), &st); err != nil {
			k.t.Error(err)
		}
		status = st.Status
	} else if !strings.Contains(stderr, "does not exist") {
		k.t.Errorf("%s: state says %s", v.name, stderr)
	}
	if !slices.Contains(v.after, status) {
		k.t.Errorf("%s left the container %q", v.name, status)
	}
	if (status == "") != (len(list) == 0) {
		k.t.Errorf("%s left the container %q, and list has %+v", v.name, status, list)
	}
	switch status {
	case "created":
		k.ok("start", k.id)
	case "paused":
		k.ok("resume", k.id)
	case "running":
		if !slices.Contains(v.after, "stopped") { // else it may be about to stop
			k.ok("exec", k.id, "true")
		}
	}
}

// remove deletes the container and wants everything gone but the bundles.
func (k *killing) remove() {
	t := k.t
	t.Helper()
	if _, stderr, code := k.run("", "delete", "--force", k.id); code != 0 {
		t.Errorf("delete --force: exit code %d: %s", code, stderr)
	}
	k.expectNothing()
}

// expectNothing wants nothing of the container anywhere.
func (k *killing) expectNothing() {
	t := k.t
	t.Helper()
	if left, err := os.ReadDir(k.root); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Errorf("left in the state root: %v, %v", left, err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + k.id, "/sys/fs/cgroup/" + k.id} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left of cgroups: %v, %v", left, err)
		}
	}
	var left []string
	for end := time.Now().Add(deadline); ; time.Sleep(2 * time.Millisecond) {
		if left = orphans(t); len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("left of processes: %v", left)
			break
		}
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, filepath.Dir(filepath.Dir(k.root))) {
			t.Errorf("left mounted: %s", line)
		}
	}
	if k.hash() != k.trees {
		t.Error("a bundle has changed")
	}
	pid := filepath.Dir(k.pidFile)
	if files, err := os.ReadDir(pid); err != nil || len(files) > 2 {
		t.Errorf("in the directory of the pid file are %v, %v", files, err)
	}
}

// orphans reaps what has become our child and is dead, and names those that live. Of the programs that the test itself starts
// none may run, or their name is one of spared: the end of those is waited for elsewhere.
func orphans(t *testing.T, spared ...string) []string {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Error(err)
	}
	var alive []string
	for _, path := range lists {
		list, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for child := range strings.FieldsSeq(string(list)) {
			comm, err := os.ReadFile("/proc/" + child + "/comm")
			if err != nil || slices.Contains(spared, strings.TrimSpace(string(comm))) {
				continue
			}
			pid, err := strconv.Atoi(child)
			if err != nil {
				t.Error(err)
			}
			if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && got == 0 {
				alive = append(alive, child+" "+strings.TrimSpace(string(comm)))
			}
		}
	}
	return alive
}

// reapOrphans does what an init does: without it the first process of a pid namespace cannot end.
func reapOrphans(t *testing.T) (stop func()) {
	t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	ours := strings.TrimSpace(string(comm)) // a child's name, too, until it executes corsa
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			orphans(t, ours, filepath.Base(corsaBin))
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ending:
				return
			}
		}
	}()
	return func() { close(ending); <-ended }
}

// treeHash is a checksum of names, modes and contents below dir.
func treeHash(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, path, fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			h.Write(data)
			return err
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintln(h, to)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
