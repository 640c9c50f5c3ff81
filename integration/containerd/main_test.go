// Package containerd tests corsa under the real containerd and its shim: the daemon, which the tests start, has all of its
// own in a temporary directory. What shim and ctr keep in /run/containerd is compared before and after.
package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
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
	imageRedis   = "localhost/redis:latest"
)

// Where the redis of imageRedis listens, in the container.
const redisDir, redisSocket = "/run/redis", "/run/redis/redis.sock"

// world is what all tests share.
var world struct {
	dir       string // everything is in it
	bin       string // corsa
	state     string // corsa's root of the containers; containerd adds the namespace to what it is told
	namespace string // containerd's, which is in the name of every cgroup
	daemon    *daemon
	criu      containertest.CRIU
	skip      string // why nothing can be tested here
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
		world.skip = "needs root: containers with a cgroup"
		return m.Run(), nil
	}
	for _, p := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		if _, err := exec.LookPath(p); err != nil {
			world.skip = p + " is not installed: make deps"
			return m.Run(), nil
		}
	}
	if world.dir, err = os.MkdirTemp("/tmp", "cctr"); err != nil {
		return 0, err
	}
	world.namespace = filepath.Base(world.dir)
	world.state = filepath.Join(world.dir, "state", world.namespace)
	before, err := runFiles()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cleanUp(before)) }()
	if err := prepare(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func prepare() error {
	var err error
	if world.bin, err = containertest.Binary(world.dir); err != nil {
		return err
	}
	world.criu = containertest.FindCRIU(world.bin)
	if world.daemon, err = startDaemon(world.dir); err != nil {
		return err
	}
	for _, image := range []containertest.Image{{Name: imageBusybox}, containertest.Redis(imageRedis, redisSocket)} {
		path := filepath.Join(world.dir, "image.tar")
		if err := image.Write(path); err != nil {
			return err
		}
		if out, err := ctr("image", "import", path).CombinedOutput(); err != nil {
			return fmt.Errorf("import the image %s: %w\n%s", image.Name, err, out)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// cleanUp ends what tests have left, and reports it. before is what there was in /run/containerd.
func cleanUp(before map[string]bool) error {
	var errs []error
	if world.daemon != nil {
		left, err := ctr("container", "ls", "--quiet").CombinedOutput()
		if err != nil || len(bytes.TrimSpace(left)) > 0 {
			errs = append(errs, err, fmt.Errorf("containers are left: %s", left))
		}
		for name := range strings.FieldsSeq(string(left)) {
			_ = ctr("task", "kill", "--signal", "KILL", name).Run() // it may have none
			errs = append(errs, ctr("container", "rm", name).Run())
		}
		errs = append(errs, world.daemon.stop())
	}
	if entries, err := os.ReadDir(world.state); err == nil && len(entries) > 0 {
		errs = append(errs, fmt.Errorf("left in corsa's state root: %v", entries))
	}
	if err := containertest.RemoveCgroups(world.namespace); err != nil {
		errs = append(errs, err)
	}
	if err := containertest.AwaitNone(world.dir, world.namespace); err != nil {
		errs = append(errs, err, containertest.Unmount(world.dir))
	}
	after, err := runFiles()
	errs = append(errs, err)
	for path := range after {
		if !before[path] && !isDirectory(path) {
			errs = append(errs, fmt.Errorf("left behind: %s", path))
		}
	}
	// Empty directories: what somebody else has made or uses meanwhile is not removed.
	for _, path := range []string{"fifo", "s", "io.containerd.runtime.v2.task/" + world.namespace, "io.containerd.runtime.v2.task", ""} {
		if path = filepath.Join(runDir, path); !before[path] {
			_ = os.Remove(path)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(world.dir))...)
}

// runDir is where shim and ctr put sockets and pipes wherever the daemon has its state.
const runDir = "/run/containerd"

func runFiles() (map[string]bool, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(runDir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			found[path] = true
		}
		return nil // gone meanwhile
	})
	return found, err
}

func isDirectory(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
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
