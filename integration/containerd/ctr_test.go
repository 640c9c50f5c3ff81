package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/integration/containertest"
)

// daemon is a containerd of our own.
type daemon struct {
	dir string
	cmd *exec.Cmd
}

func startDaemon(dir string) (*daemon, error) {
	config := fmt.Sprintf(`version = 2
root = "%[1]s/data"
state = "%[1]s/run"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "%[1]s/c.sock"
`, dir)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	d := &daemon{dir: dir}
	return d, d.start()
}

// start starts the daemon and waits until it answers.
func (d *daemon) start() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command("containerd", "--config", filepath.Join(d.dir, "config.toml"))
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Dir = log, log, d.dir
	if err := d.cmd.Start(); err != nil {
		return err
	}
	// ctr waits for minutes where nobody listens yet.
	for end := time.Now().Add(deadline); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(d.dir, "c.sock"))
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("containerd does not listen: %w", err), d.stop())
		}
	}
}

// stop ends the daemon; containers go on.
func (d *daemon) stop() error {
	if d.cmd.ProcessState != nil {
		return nil
	}
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	timer := time.AfterFunc(deadline, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	err := d.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

// ctr is ctr with args, ready to run.
func ctr(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	cmd := exec.CommandContext(ctx, "ctr", append([]string{
		"--address", filepath.Join(world.dir, "c.sock"), "--namespace", world.namespace,
	}, args...)...)
	cmd.Cancel = func() error { defer cancel(); return cmd.Process.Kill() }
	cmd.Dir = world.dir
	// What runs on holds our ends of pipes.
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// result is how a ctr command has ended.
type result struct {
	out, err string
	code     int
}

// run runs ctr to its end.
func run(t *testing.T, args ...string) result {
	t.Helper()
	out, errOut, code := containertest.Run(t, ctr(args...))
	return result{out, errOut, code}
}

// ok runs ctr, which must succeed, and returns what it prints, without space around it.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.code != 0 {
		t.Fatalf("ctr %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return strings.TrimSpace(r.out)
}

// container is the id of a container for this test, which is removed at its end. With it come the flags by which `run`
// takes corsa.
func container(t *testing.T) (id string, flags []string) {
	t.Helper()
	if world.skip != "" {
		t.Skip(world.skip)
	}
	id = strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())
	t.Cleanup(func() { remove(t, id) })
	return id, []string{"--runc-binary", world.bin, "--runc-root", filepath.Dir(world.state)}
}

// remove ends a container, if it is there.
func remove(t *testing.T, id string) {
	t.Helper()
	if run(t, "container", "info", id).code != 0 {
		return
	}
	if status(t, id) != "" {
		run(t, "task", "kill", "--signal", "KILL", id) // it may have ended
		eventually(t, id+" has ended", func() bool { return status(t, id) != "RUNNING" })
		run(t, "task", "rm", "--force", id)
	}
	ok(t, "container", "rm", id)
}

// status is that of a container's task, as containerd sees it; "" without one.
func status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(ok(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// pid is that of the first process of a container's task.
func pid(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(ok(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[1]
		}
	}
	t.Fatalf("%s has no task", id)
	return ""
}

// once runs a container of busybox to its end.
func once(t *testing.T, flags []string, command ...string) result {
	t.Helper()
	id, own := container(t)
	return run(t, words("run", "--rm", own, flags, imageBusybox, id, command)...)
}

// start starts a container of busybox that stays. What it prints goes to a file, which is returned.
func start(t *testing.T, flags []string, command ...string) (id, output string) {
	t.Helper()
	id, own := container(t)
	output = filepath.Join(t.TempDir(), "output")
	ok(t, words("run", "--detach", "--log-uri", "file://"+output, own, flags, imageBusybox, id, command)...)
	return id, output
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

// execute runs a further program in a container.
func execute(t *testing.T, id string, flags []string, command ...string) result {
	t.Helper()
	executions++
	return run(t, words("task", "exec", "--exec-id", fmt.Sprintf("exec-%d", executions), flags, id, command)...)
}

// executions tells those of execute apart.
var executions int
