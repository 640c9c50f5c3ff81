package containerd

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"corsa.dev/corsa/integration/containertest"
)

// service is a redis that containerd has started and corsa virtualised.
type service struct {
	t      *testing.T
	id     string
	dir    string // of the host
	socket string // of the host
}

// serve starts the redis image with a directory of the host at its socket's. containerd does not read the annotations of
// images.
func serve(t *testing.T, flags ...string) *service {
	t.Helper()
	s := &service{t: t, dir: publicDir(t)}
	id, own := container(t)
	s.id, s.socket = id, filepath.Join(s.dir, filepath.Base(redisSocket))
	ok(t, words("run", "--detach", "--null-io", own, "--annotation", "dev.corsa.socket="+redisSocket,
		"--mount", "type=bind,src="+s.dir+",dst="+redisDir+",options=rbind:rw", flags, imageRedis, id)...)
	return s
}

// publicDir is a directory that every user may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	if world.skip != "" {
		t.Skip(world.skip)
	}
	return containertest.PublicDir(t, world.dir)
}

// corsa runs a verb of corsa that must succeed.
func corsa(t *testing.T, args ...string) string {
	t.Helper()
	return containertest.Corsa(t, world.bin, world.state, args...)
}

func (s *service) expect(want string, uid int, command ...string) {
	s.t.Helper()
	if got := containertest.RedisAs(s.t, uid, s.socket, command...); got != want {
		s.t.Errorf("uid %d: %s: %q, want %q", uid, strings.Join(command, " "), got, want)
	}
}

// gone fails unless nothing of the service is left.
func (s *service) gone() {
	s.t.Helper()
	eventually(s.t, "its state is gone", func() bool {
		_, err := os.Lstat(filepath.Join(world.state, s.id))
		return errors.Is(err, os.ErrNotExist)
	})
	if found, err := containertest.Traces(filepath.Join(world.state, s.id), world.namespace+"/"+s.id); err != nil || len(found) > 0 {
		s.t.Errorf("left of the service: %v, %v", found, err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		s.t.Errorf("left beside the public socket: %v, %v", left, err)
	}
}

func TestService(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	s.expect("", 2002, "get", "k")
	s.expect("OK", 2002, "set", "k", "two")
	s.expect("one", 2001, "get", "k")
	var apps []struct{ App string }
	if err := json.Unmarshal([]byte(corsa(t, "apps", "--json", s.id)), &apps); err != nil || len(apps) != 2 {
		t.Errorf("corsa apps: %v, %v", apps, err)
	}
	// A program in the container is an app of its own user.
	if r := execute(t, s.id, []string{"--user", "2002"}, "redis-cli", "-s", redisSocket, "get", "k"); r.out != "two\n" {
		t.Errorf("%+v", r)
	}
	ok(t, "task", "pause", s.id)
	ok(t, "task", "resume", s.id)
	ok(t, "task", "metrics", s.id)
	s.expect("one", 2001, "get", "k")
	ok(t, "task", "kill", s.id)
	eventually(t, "it is stopped", func() bool { return status(t, s.id) == "STOPPED" })
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("left beside the public socket: %v, %v", left, err)
	}
	remove(t, s.id)
	s.gone()
}

func TestServiceSurvivesTheCrashOfAnInstance(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	s.expect("OK", 2002, "set", "k", "two")
	corsa(t, "checkpoint", "--app", "2001", s.id)
	containertest.RedisAs(t, 2001, s.socket, "debug", "segfault") // whatever it answers
	eventually(t, "the app has its checkpoint back", func() bool {
		return containertest.RedisAs(t, 2001, s.socket, "get", "k") == "one"
	})
	s.expect("two", 2002, "get", "k")
	if got := status(t, s.id); got != "RUNNING" {
		t.Errorf("the task is %s", got)
	}
}

// Apps do not need containerd, and it sees the end of a service that somebody else kills.
func TestServiceWithoutTheDaemon(t *testing.T) {
	s := serve(t)
	s.expect("OK", 2001, "set", "k", "one")
	first := pid(t, s.id)
	if err := world.daemon.stop(); err != nil {
		t.Fatal(err)
	}
	s.expect("one", 2001, "get", "k")
	if err := world.daemon.start(); err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(first)
	if err == nil {
		err = syscall.Kill(n, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stopped", func() bool { return status(t, s.id) == "STOPPED" })
	remove(t, s.id)
	s.gone()
}

// What cannot be virtualised does not run, and containerd says why.
func TestServiceThatIsRefused(t *testing.T) {
	dir := publicDir(t)
	id, own := container(t)
	r := run(t, words("run", "--detach", "--null-io", own, "--annotation", "dev.corsa.socket="+redisSocket,
		"--mount", "type=bind,src="+dir+",dst="+redisDir+",options=rbind:rw", imageRedis, id,
		"redis-server", "--port", "0", "--unixsocket", redisSocket, "--appendonly", "yes", "--dir", "/tmp")...)
	if r.code == 0 || !strings.Contains(r.err, "appendonly.aof") {
		t.Errorf("%+v", r)
	}
	remove(t, id)
	if left, err := os.ReadDir(world.state); err != nil || len(left) > 0 {
		t.Errorf("left in corsa's state root: %v, %v", left, err)
	}
}
