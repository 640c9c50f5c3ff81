package spec_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// deadline is how long a test waits for something that has to happen soon; reaching it is a failure.
const deadline = 30 * time.Second

// startHost runs a program of the host in a sandbox of its own, which ends with the test.
func startHost(t *testing.T, o spec.HostBundleOptions) *sandbox.Sandbox {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers with a cgroup")
	}
	bundle := t.TempDir()
	if err := spec.WriteBundle(bundle, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	s, err := sandbox.Create(ctx, sandbox.Options{
		Root: t.TempDir(), ID: fmt.Sprintf("spectest-%d-%d", os.Getpid(), time.Now().UnixNano()), Bundle: bundle,
		Stdio: sandbox.Stdio{Pipes: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := s.Delete(ctx, true); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// output waits for the program's end and returns what it printed.
func output(t *testing.T, s *sandbox.Sandbox) (stdout, stderr string, code int) {
	t.Helper()
	p := s.Init().Pipes()
	p.Stdin.Close()
	errs := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(p.Stderr)
		errs <- string(b)
	}()
	out, err := io.ReadAll(p.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	stderr = <-errs
	if code, err = s.Init().Wait(); err != nil {
		t.Fatal(err)
	}
	return string(out), stderr, code
}

// script runs a shell script in a sandbox made of o and fails the test unless it exits with 0.
func script(t *testing.T, o spec.HostBundleOptions, text string) string {
	t.Helper()
	o.Args = []string{"sh", "-c", text}
	out, errs, code := output(t, startHost(t, o))
	if code != 0 {
		t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", code, out, errs)
	}
	return out
}

func TestHostProgramSeesTheHostReadOnly(t *testing.T) {
	home := outsideTemp(t)
	out := script(t, spec.HostBundleOptions{Writable: []string{home}}, `
		set -u
		for d in /etc /usr /var; do if touch $d/corsa-test 2>/dev/null; then rm $d/corsa-test; echo writable: $d; fi; done
		for d in /run /tmp; do [ -z "$(ls -A $d)" ] || { echo not empty: $d; ls -A $d; }; touch $d/x || echo read-only: $d; done
		touch /x 2>/dev/null && echo writable: /
		touch "`+home+`/made" || echo read-only: declared
		echo x > /dev/null && head -c1 /dev/urandom >/dev/null || echo bad dev
		ls -d /proc/1/root >/dev/null || echo bad proc
		touch /sys/x 2>/dev/null && echo writable: sys
		[ "$(readlink /bin)" = "`+readlink("/bin")+`" ] || echo /bin differs
		pids=$(ls /proc | grep -c '^[0-9][0-9]*$'); [ $pids -le 4 ] || echo $pids processes are visible
		echo done
	`)
	if out != "done\n" {
		t.Errorf("the sandbox is not as it should be:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(home, "made")); err != nil {
		t.Error("a file made in a writable directory is not on the host: ", err)
	}
}

func TestHostProgramKeepsTheEnginesCapabilities(t *testing.T) {
	out := script(t, spec.HostBundleOptions{}, "cat /proc/self/status")
	var eff uint64
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			if _, err := fmt.Sscanf(strings.TrimSpace(v), "%x", &eff); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
		if strings.HasPrefix(line, "NoNewPrivs:") && !strings.Contains(line, "1") {
			t.Error("no_new_privs is off")
		}
	}
	for name, bit := range map[string]uint{"CAP_SYS_ADMIN": 21, "CAP_CHECKPOINT_RESTORE": 40} {
		if eff&(1<<bit) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	for name, bit := range map[string]uint{"CAP_SYS_MODULE": 16, "CAP_SYS_PTRACE": 19, "CAP_SYS_BOOT": 22, "CAP_BPF": 39} {
		if eff&(1<<bit) != 0 {
			t.Errorf("%s was kept", name)
		}
	}
}

func TestHostProgramAsAnotherUser(t *testing.T) {
	s := service(t, "/run/corsa-test/own.sock")
	out := script(t, spec.HostBundleOptions{UID: 65534, GID: 65534, Service: s}, `
		id -u; touch /run/corsa-test/x && echo own
		grep CapEff /proc/self/status | tr -dc '1-9'
	`)
	if out != "65534\nown\n" {
		t.Errorf("got %q", out)
	}
}

// A program file below /tmp would be hidden by the private /tmp.
func TestHostProgramInAPrivateDirectory(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "prog")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nls -A "+dir+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("prog", link); err != nil {
		t.Fatal(err)
	}
	out, errs, code := output(t, startHost(t, spec.HostBundleOptions{Args: []string{program}}))
	if code != 0 || out != "prog\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, errs)
	}
	if out, errs, code = output(t, startHost(t, spec.HostBundleOptions{Args: []string{link}})); code != 0 {
		t.Errorf("through a link: exit code %d, stdout %q, stderr %q", code, out, errs)
	}
}

func TestPrivateNetworkFreesThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	listen := `import socket; s = socket.socket(); s.bind(("127.0.0.1", ` + port + `)); s.listen(); print("bound")`
	o := spec.HostBundleOptions{Args: []string{"python3", "-c", listen}}
	if _, errs, code := output(t, startHost(t, o)); code == 0 || !strings.Contains(errs, "in use") {
		t.Errorf("in the host's network: exit code %d, stderr %q", code, errs)
	}
	o.PrivateNetwork = true
	if out, errs, _ := output(t, startHost(t, o)); out != "bound\n" {
		t.Errorf("in a private network: stdout %q, stderr %q", out, errs)
	}
}

// redis-server on a socket in each kind of directory, reached through the sandbox's root as the engine does.
func TestHostRedis(t *testing.T) {
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("needs redis-server (make deps installs it)")
	}
	for name, path := range map[string]string{
		"under run": "/run/corsa-test/redis/r.sock",
		"in run":    "/run/r.sock",
		"under tmp": filepath.Join(t.TempDir(), "r.sock"),
		"on host":   filepath.Join(outsideTemp(t), "r.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			s := startHost(t, spec.HostBundleOptions{
				Args: []string{redis, "--port", "0", "--unixsocket", path, "--save", ""}, Service: service(t, path),
			})
			go func() { _, _ = io.Copy(io.Discard, s.Init().Pipes().Stdout) }()
			pid, err := s.InitPID()
			if err != nil {
				t.Fatal(err)
			}
			// The address of a unix socket has no room for a long path; the descriptor's name is short.
			dir := filepath.Join("/proc", fmt.Sprint(pid), "root", filepath.Dir(path))
			if got := ping(t, dir, filepath.Base(path)); got != "+PONG\r\n" {
				t.Errorf("redis answered %q", got)
			}
			config, service, err := spec.LoadBundle(s.Bundle())
			if err != nil || service == nil || service.Endpoints[0].Address != path || config.Process.Args[0] != redis {
				t.Errorf("the bundle reads back as %+v, %v", service, err)
			}
		})
	}
}

func ping(t *testing.T, dir, name string) string {
	t.Helper()
	var conn net.Conn
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		d, err := os.Open(dir)
		if err == nil {
			conn, err = net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
			d.Close()
		}
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// outsideTemp makes a directory of the host that no private directory of a sandbox hides.
func outsideTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "corsa-spec-test-")
	if err != nil {
		t.Skip("needs a writable /var/lib: ", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func readlink(path string) string {
	target, _ := os.Readlink(path)
	return target
}

func service(t *testing.T, sockets ...string) *spec.Service {
	t.Helper()
	s := spec.Default()
	for _, path := range sockets {
		e, err := spec.ParseSocket(path)
		if err != nil {
			t.Fatal(err)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}
