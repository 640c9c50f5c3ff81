package podman

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/integration/containertest"
)

// service is a redis that podman has started and corsa virtualised.
type service struct {
	t        *testing.T
	name, id string
	dir      string // of the host
	socket   string // of the host
}

// serve starts the redis image with a directory of the host at its socket's.
func serve(t *testing.T, flags ...string) *service {
	t.Helper()
	s := &service{t: t, dir: publicDir(t)}
	name, own := container(t)
	s.name = name
	s.socket = filepath.Join(s.dir, filepath.Base(redisSocket))
	ok(t, words("run", "--detach", own, "--volume", s.dir+":"+redisDir, flags, imageRedis)...)
	s.id = inspect(t, name, ".Id")
	return s
}

// publicDir is a directory that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	return containertest.PublicDir(t, world.dir)
}

// corsa runs a verb of corsa that must succeed.
func corsa(t *testing.T, args ...string) string {
	t.Helper()
	return containertest.Corsa(t, world.bin, world.state, args...)
}

// as has the redis-cli of a user ask at a socket; the reply is never an error of this function.
func (s *service) as(uid int, command ...string) string {
	s.t.Helper()
	return containertest.RedisAs(s.t, uid, s.socket, command...)
}

// expect asks and compares.
func (s *service) expect(want string, uid int, command ...string) {
	s.t.Helper()
	if got := s.as(uid, command...); got != want {
		s.t.Errorf("uid %d: %s: %q, want %q", uid, strings.Join(command, " "), got, want)
	}
}

// apps are the states of the service's apps, as corsa tells them.
func (s *service) apps() map[string]string {
	s.t.Helper()
	var list []struct{ App, State string }
	if err := json.Unmarshal([]byte(corsa(s.t, "apps", "--json", s.id)), &list); err != nil {
		s.t.Fatal(err)
	}
	states := map[string]string{}
	for _, a := range list {
		states[a.App] = a.State
	}
	return states
}

// gone fails unless nothing of the service is left.
func (s *service) gone() {
	s.t.Helper()
	if err := containertest.AwaitNone(s.id, s.id); err != nil {
		s.t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(world.state, s.id)); err == nil {
		s.t.Error("left of it in corsa's state root")
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		s.t.Errorf("left beside the public socket: %v, %v", left, err)
	}
}

// The annotations of the image alone make it a service: two users have each their own redis.
func TestService(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	s.expect("", 2002, "get", "k")
	s.expect("OK", 2002, "set", "k", "two")
	s.expect("one", 2001, "get", "k")
	if apps := s.apps(); len(apps) != 2 || apps["uid:2001"] == "" || apps["uid:2002"] == "" {
		t.Errorf("corsa apps: %v", apps)
	}
	// A program in the container is an app of its own user.
	prints(t, "two", "exec", "--user", "2002:0", s.name, "redis-cli", "-s", redisSocket, "get", "k")
	if top := ok(t, "top", s.name, "comm"); !strings.Contains(top, "redis-server") {
		t.Errorf("podman top: %s", top)
	}
	ok(t, "stats", "--no-stream", s.name)
	ok(t, "rm", "--force", "--time", "0", s.name)
	s.gone()
}

func TestServiceSurvivesTheCrashOfAnInstance(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	s.expect("OK", 2002, "set", "k", "two")
	corsa(t, "checkpoint", "--app", "2001", s.id)
	s.as(2001, "debug", "segfault") // whatever it answers
	eventually(t, "the app has its checkpoint back", func() bool { return s.as(2001, "get", "k") == "one" })
	s.expect("two", 2002, "get", "k")
	if got := inspect(t, s.name, ".State.Status"); got != "running" {
		t.Errorf("the container is %s", got)
	}
}

func TestServiceIsPausedAndKilled(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	ok(t, "pause", s.name)
	ok(t, "unpause", s.name)
	s.expect("one", 2001, "get", "k")
	ok(t, "stop", "--time", "30", s.name)
	s.gone()
	ok(t, "start", s.name)
	s.expect("", 2001, "get", "k")
	kill(t, inspect(t, s.name, ".State.Pid"))
	prints(t, "137", "wait", s.name)
	eventually(t, "podman has cleaned up", func() bool { return inspect(t, s.name, ".State.Status") == "exited" })
	s.gone()
}

// A monitor that is killed is replaced, and podman sees nothing of it.
func TestServiceWithAnotherMonitor(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	pid, err := os.ReadFile(filepath.Join(world.state, s.id, "monitor.lock"))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, strings.TrimSpace(string(pid)))
	eventually(t, "another monitor serves", func() bool { return s.as(2001, "get", "k") == "one" })
	prints(t, "running", "container", "inspect", "--format", "{{.State.Status}}", s.name)
}

// An app in another container reaches the service through a named volume.
func TestServiceInAVolume(t *testing.T) {
	name, own := container(t)
	volume := name + "-volume"
	t.Cleanup(func() {
		remove(t, name)
		ok(t, "volume", "rm", "--force", volume)
	})
	ok(t, words("run", "--detach", own, "--volume", volume+":"+redisDir, "--annotation", "dev.corsa.path=connect", imageRedis)...)
	client := func(uid int, command ...string) string {
		t.Helper()
		return ok(t, words("run", "--rm", "--cgroup-parent", "/"+world.cgroup, "--user", strconv.Itoa(uid), "--volume", volume+":/there",
			imageRedisPlain, "redis-cli", "-s", "/there/redis.sock", command)...)
	}
	if got := client(2001, "set", "k", "one"); got != "OK" {
		t.Errorf("set: %q", got)
	}
	if got := client(2002, "get", "k"); got != "" {
		t.Errorf("the other app's: %q", got)
	}
	if got := client(2001, "get", "k"); got != "one" {
		t.Errorf("get: %q", got)
	}
}

// What cannot be virtualised does not run, and podman says why.
func TestServiceThatIsRefused(t *testing.T) {
	dir := publicDir(t)
	name, own := container(t)
	r := run(t, words("run", "--detach", own, "--volume", dir+":"+redisDir, imageRedis,
		"redis-server", "--port", "0", "--unixsocket", redisSocket, "--appendonly", "yes", "--dir", "/tmp")...)
	if r.code == 0 || !strings.Contains(r.err, "appendonly.aof") {
		t.Errorf("%+v", r)
	}
	ok(t, "rm", "--force", "--time", "0", name)

	// Its directory exists in the container only.
	exits(t, 126, "directory of the socket "+redisSocket, words("run", "--detach", own, imageRedis)...)
	ok(t, "rm", "--force", "--time", "0", name)
	// A declaration that nobody understands.
	exits(t, 126, "dev.corsa.sockets", words("run", "--rm", own, "--annotation", "dev.corsa.sockets=/x", imageBusybox, "true")...)
	if err := unix.Access(redisDir, unix.F_OK); err == nil {
		t.Errorf("%s exists on this host", redisDir)
	}
}

// A port in the container's own network is served at the loopback device of the host.
func TestServiceByTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String() // free, as soon as this is closed
	_, port, err := net.SplitHostPort(address)
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	_, own := container(t)
	ok(t, words("run", "--detach", own, "--network", "none", "--annotation", "dev.corsa.tcp="+address, imageRedisPlain,
		"redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "")...)
	for _, c := range []struct {
		uid           int
		command, want string
	}{{2001, "incr k", "1"}, {2002, "incr k", "1"}, {2001, "incr k", "2"}} {
		cmd := exec.Command("redis-cli", append([]string{"-p", port}, strings.Fields(c.command)...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}}
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != c.want {
			t.Errorf("uid %d: %s: %q, want %s; %v", c.uid, c.command, out, c.want, err)
		}
	}
}

// The service itself need not be root, neither of the host nor of the container.
func TestServiceOfAUser(t *testing.T) {
	for name, flags := range map[string][]string{
		"user namespace": {"--uidmap", "0:200000:5000", "--gidmap", "0:200000:5000"},
		"user":           {"--user", "2001:2002", "--read-only"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			dir := publicDir(t)
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			_, own := container(t)
			ok(t, words("run", "--detach", own, "--volume", dir+":"+redisDir, flags, imageRedis)...)
			socket := filepath.Join(dir, filepath.Base(redisSocket))
			for _, c := range []struct {
				uid  int
				want string
			}{{2001, "1"}, {2002, "1"}, {2001, "2"}} {
				if got := containertest.RedisAs(t, c.uid, socket, "incr", "k"); got != c.want {
					t.Errorf("uid %d: %q, want %s", c.uid, got, c.want)
				}
			}
		})
	}
}
