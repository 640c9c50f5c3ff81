package podman

import (
	"context"
	"errors"
	"io/fs"
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

// nobody is a user without further ids in /etc/subuid: podman maps its own only.
const nobody = 65534

// rootless is a podman of nobody's, with corsa's default root.
type rootless struct {
	t   *testing.T
	dir string
}

func newRootless(t *testing.T, image containertest.Image) *rootless {
	t.Helper()
	if world.skip != "" {
		t.Skip(world.skip)
	}
	dir, err := os.MkdirTemp("/tmp", "cpodr")
	if err != nil {
		t.Fatal(err)
	}
	r := &rootless{t: t, dir: dir}
	t.Cleanup(r.end)
	data, err := os.ReadFile(world.bin)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "corsa"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	text := "[containers]\nnetns = \"none\"\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n" +
		"[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[network]\nnetwork_backend = \"cni\"\n"
	err = os.WriteFile(filepath.Join(dir, "containers.conf"), []byte(text), 0o644)
	for _, d := range []string{"home", "run"} {
		path := filepath.Join(dir, d)
		err = errors.Join(err, os.Mkdir(path, 0o700), os.Chown(path, nobody, nobody))
	}
	if err = errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "image.tar")
	if err := errors.Join(image.Write(archive), os.Chmod(archive, 0o644)); err != nil {
		t.Fatal(err)
	}
	if got := r.run("load", "--input", archive); got.code != 0 {
		t.Skipf("podman does not run without root here: %s", got.err)
	}
	return r
}

// run runs podman as nobody.
func (r *rootless) run(args ...string) result {
	r.t.Helper()
	in := func(name string) string { return filepath.Join(r.dir, name) }
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "podman", append([]string{
		"--root", in("home/storage"), "--runroot", in("run/root"), "--storage-driver", "vfs", "--runtime", in("corsa"), "--log-level", "error",
	}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + in("home"), "XDG_RUNTIME_DIR=" + in("run"), "CONTAINERS_CONF=" + in("containers.conf")}
	cmd.Dir = in("home")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.WaitDelay = time.Second // podman leaves a process that holds its namespaces
	out, errOut, code := containertest.Run(r.t, cmd)
	return result{out, errOut, code}
}

// end leaves nothing, the process that holds podman's namespaces included.
func (r *rootless) end() {
	r.run("rm", "--all", "--force", "--time", "0")
	if left, err := os.ReadDir(filepath.Join(r.dir, "run/corsa")); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		r.t.Errorf("left in corsa's default root: %v, %v", left, err)
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "run/libpod/tmp/pause.pid"))
	if err == nil {
		pid, perr := strconv.Atoi(strings.TrimSpace(string(text)))
		if err = perr; err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		r.t.Error(err)
	}
	if err := containertest.AwaitNone(r.dir, ""); err != nil {
		r.t.Error(err)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
}

func TestRootless(t *testing.T) {
	r := newRootless(t, containertest.Image{Name: imageBusybox})
	if got := r.run("run", "--rm", imageBusybox, "sh", "-c", "echo $(id -u) $(cat /proc/self/uid_map); exit 7"); got.out != "0 0 65534 1\n" || got.code != 7 {
		t.Errorf("%+v", got)
	}
	if got := r.run("run", "--detach", "--name", "stays", imageBusybox, "sleep", "1000"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if entries, err := os.ReadDir(filepath.Join(r.dir, "run/corsa")); err != nil || len(entries) != 1 {
		t.Errorf("in the default root of a user: %v, %v", entries, err)
	}
	if got := r.run("exec", "stays", "sh", "-c", "exit 5"); got.code != 5 {
		t.Errorf("%+v", got)
	}
	if got := r.run("top", "stays", "comm"); !strings.Contains(got.out, "sleep") {
		t.Errorf("%+v", got)
	}
	if got := r.run("stop", "--time", "0", "stays"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := r.run("rm", "stays"); got.code != 0 {
		t.Errorf("%+v", got)
	}
}

// A user can have a service, too, of which only those of the host's users are apps whom the user namespace can tell apart.
func TestRootlessService(t *testing.T) {
	r := newRootless(t, containertest.Redis(imageRedis, redisSocket))
	dir := filepath.Join(r.dir, "home/public")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, filepath.Base(redisSocket))
	flags := []string{"run", "--detach", "--volume", dir + ":" + redisDir}
	got := r.run(words(flags, imageRedis)...)
	if got.code == 0 || !strings.Contains(got.err, "seccomp filter") || !strings.Contains(got.err, "way out") {
		t.Errorf("with a seccomp filter: %+v", got)
	}
	if got := r.run(words(flags, "--name", "served", "--security-opt", "seccomp=unconfined", imageRedis)...); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if got := containertest.RedisAs(t, nobody, socket, "set", "k", "one"); got != "OK" {
		t.Errorf("set: %q", got)
	}
	// It is shown to the gate as the user that 2002 would be shown as.
	if got := containertest.RedisAs(t, 2001, socket, "set", "k", "two"); strings.Contains(got, "OK") { // or an error, or nothing if it dies of SIGPIPE
		t.Errorf("a user who cannot be told from others: %q", got)
	}
	if got := containertest.RedisAs(t, nobody, socket, "get", "k"); got != "one" {
		t.Errorf("get: %q", got)
	}
	if got := r.run("rm", "--force", "--time", "0", "served"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left beside the public socket: %v, %v", left, err)
	}
}
