// Package podman tests corsa under the real podman: everything that podman has of its own is in a temporary directory,
// images are made of programs of this host, and there is no network.
package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/integration/containertest"
)

// deadline is how long a command may take, and how long a test waits for something that has to happen at once. Reaching
// it is a failure, never a measurement.
const deadline = 60 * time.Second

// The images.
const (
	imageBusybox = "localhost/busybox:latest"
	imageRedis   = "localhost/redis:latest" // its annotations declare a service
	// imageRedisPlain is the same without.
	imageRedisPlain = "localhost/redis-plain:latest"
)

// Where the redis of imageRedis listens, in the container.
const redisDir, redisSocket = "/run/redis", "/run/redis/redis.sock"

// world is what all tests share.
var world struct {
	dir    string // everything is in it; short, as podman allows 50 characters for a path
	bin    string // corsa
	state  string // corsa's root
	cgroup string // of all containers, no slash
	criu   containertest.CRIU
	skip   string // why nothing can be tested here
}

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		world.skip = "needs root: podman with containers that have a cgroup"
		return m.Run(), nil
	}
	if _, err := exec.LookPath("podman"); err != nil {
		world.skip = "podman is not installed: make deps"
		return m.Run(), nil
	}
	if world.dir, err = os.MkdirTemp("/tmp", "cpod"); err != nil {
		return 0, err
	}
	world.cgroup = filepath.Base(world.dir)
	world.state = filepath.Join(world.dir, "state")
	defer func() { err = errors.Join(err, cleanUp()) }()
	if err := prepare(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// prepare writes podman's configuration and gives it the images.
func prepare() error {
	var err error
	if world.bin, err = containertest.Binary(world.dir); err != nil {
		return err
	}
	world.criu = containertest.FindCRIU(world.bin)
	dir := filepath.Join(world.dir, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	runtime, err := containertest.Runtime(dir, world.bin, world.state)
	if err != nil {
		return err
	}
	// Without the limits podman asks for more than a machine without CAP_SYS_RESOURCE gives.
	config := fmt.Sprintf(`[containers]
netns = "none"
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
events_logfile_path = "%[1]s/events"
runtime = "corsa"
[engine.runtimes]
corsa = ["%[2]s"]
[network]
network_backend = "cni"
network_config_dir = "%[1]s/networks"
`, world.dir, runtime)
	if err := os.WriteFile(filepath.Join(world.dir, "containers.conf"), []byte(config), 0o644); err != nil {
		return err
	}
	return loadImages()
}

func loadImages() error {
	redis := containertest.Redis(imageRedis, redisSocket)
	plain := redis
	plain.Name, plain.Annotations = imageRedisPlain, nil
	plain.Labels = map[string]string{"plain": "yes"} // podman takes images that differ in annotations only for one
	for _, image := range []containertest.Image{{Name: imageBusybox}, redis, plain} {
		path := filepath.Join(world.dir, "image.tar")
		if err := image.Write(path); err != nil {
			return err
		}
		out, err := podman("load", "--quiet", "--input", path).CombinedOutput()
		if err == nil {
			id := strings.TrimSpace(string(out))
			out, err = podman("tag", id[strings.LastIndex(id, " ")+1:], image.Name).CombinedOutput()
		}
		if err != nil {
			return fmt.Errorf("load the image %s: %w\n%s", image.Name, err, out)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// cleanUp ends what tests have left, and reports it.
func cleanUp() error {
	var errs []error
	left, err := podman("ps", "--all", "--format", "{{.Names}}: {{.Status}}").CombinedOutput()
	if err != nil || len(bytes.TrimSpace(left)) > 0 {
		errs = append(errs, err, fmt.Errorf("containers are left: %s", left))
	}
	for _, args := range [][]string{{"pod", "rm", "--all", "--force", "--time", "0"}, {"rm", "--all", "--force", "--time", "0"}, {"rmi", "--all", "--force"}} {
		if out, err := podman(args...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, out))
		}
	}
	if entries, err := os.ReadDir(world.state); err == nil && len(entries) > 0 {
		errs = append(errs, fmt.Errorf("left in corsa's state root: %v", entries))
	}
	// These podman keeps for the next command.
	for _, mount := range []string{"storage/overlay", "run/overlay"} {
		errs = append(errs, containertest.UnmountAt(filepath.Join(world.dir, mount)))
	}
	if err := containertest.RemoveCgroups(world.cgroup); err != nil {
		errs = append(errs, err)
	}
	if err := containertest.AwaitNone(world.dir, world.cgroup); err != nil {
		errs = append(errs, err, containertest.Unmount(world.dir))
	}
	return errors.Join(append(errs, os.RemoveAll(world.dir))...)
}

// podman is podman with args, ready to run, with all of its own in the world's directory.
func podman(args ...string) *exec.Cmd {
	in := func(name string) string { return filepath.Join(world.dir, name) }
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	cmd := exec.CommandContext(ctx, "podman", append([]string{
		"--root", in("storage"), "--runroot", in("run"), "--tmpdir", in("tmp"), "--storage-driver", "overlay",
	}, args...)...)
	cmd.Cancel = func() error { defer cancel(); return cmd.Process.Kill() }
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+in("containers.conf"), "TMPDIR="+world.dir)
	if world.criu.Dir != "" { // podman asks the first one in PATH for its version
		cmd.Env = append(cmd.Env, "PATH="+world.criu.Dir+":"+os.Getenv("PATH"))
	}
	cmd.Dir = world.dir
	// What runs on holds our ends of pipes.
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is how a podman command has ended.
type result struct {
	out, err string
	code     int
}

// run runs podman to its end.
func run(t *testing.T, args ...string) result {
	t.Helper()
	return feed(t, "", args...)
}

// feed is run with a standard input.
func feed(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := podman(args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, errOut, code := containertest.Run(t, cmd)
	return result{out, errOut, code}
}

// ok runs podman, which must succeed, and returns what it prints, without space around it.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.code != 0 {
		t.Fatalf("podman %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return strings.TrimSpace(r.out)
}

// prints runs podman, which must succeed and print want.
func prints(t *testing.T, want string, args ...string) {
	t.Helper()
	if got := ok(t, args...); got != want {
		t.Errorf("podman %s: %q, want %q", strings.Join(args, " "), got, want)
	}
}

// exits runs podman, which must exit with code and say want on standard error.
func exits(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	if r := run(t, args...); r.code != code || !strings.Contains(r.err, want) {
		t.Errorf("podman %s: exit code %d, want %d; %q should contain %q", strings.Join(args, " "), r.code, code, r.err, want)
	}
}

// container is the name of a container for this test, which is removed at its end. With it come the flags that every
// `run` and `create` takes.
func container(t *testing.T) (name string, flags []string) {
	t.Helper()
	if world.skip != "" {
		t.Skip(world.skip)
	}
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	t.Cleanup(func() { remove(t, name) })
	return name, []string{"--name", name, "--cgroup-parent", "/" + world.cgroup}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if r := run(t, "rm", "--force", "--ignore", "--time", "0", name); r.code != 0 {
		t.Errorf("podman rm %s: %s", name, r.err)
	}
}

// once runs a container of busybox to its end.
func once(t *testing.T, flags []string, command ...string) result {
	t.Helper()
	_, own := container(t)
	return run(t, words("run", "--rm", own, flags, imageBusybox, command)...)
}

// start starts a container of busybox that stays.
func start(t *testing.T, flags []string, command ...string) (name string) {
	t.Helper()
	name, own := container(t)
	ok(t, words("run", "--detach", own, flags, imageBusybox, command)...)
	return name
}

// words joins strings and lists of strings.
func words(parts ...any) []string {
	var list []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			list = append(list, p)
		case []string:
			list = append(list, p...)
		default:
			panic(fmt.Sprintf("neither a string nor strings: %v", p))
		}
	}
	return list
}

// eventually waits for cond.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not reached: %s", what)
		}
	}
}

// inspect is a field of a container, as a Go template.
func inspect(t *testing.T, name, field string) string {
	t.Helper()
	return ok(t, "container", "inspect", "--format", "{{"+field+"}}", name)
}
