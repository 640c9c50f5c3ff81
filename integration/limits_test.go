package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pidsGroup is the directory of the service's cgroup that limits processes.
func (s *served) pidsGroup() string {
	s.t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		dir := filepath.Join(root, s.cgroup())
		if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
			return dir
		}
	}
	s.t.Skip("no cgroup controller pids")
	return ""
}

// leaveRoom allows the service so many processes more than it has.
func (s *served) leaveRoom(more int) {
	s.t.Helper()
	dir := s.pidsGroup()
	text, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	if err != nil {
		s.t.Fatal(err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte(strconv.Itoa(now+more)), 0); err != nil {
		s.t.Fatal(err)
	}
}

func (s *served) monitorLog() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, s.id, "monitor.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// An instance or a checkpoint for which there are not enough processes fails with the name of the limit and the way out, and
// those who have an instance do not notice.
func TestLimitIsNamed(t *testing.T) {
	s := serveRedis(t, "--spares", "0")
	a := s.app(2001)
	a.expect("+OK", "set", "k", "v")
	s.leaveRoom(0)
	file := filepath.Join(s.pidsGroup(), "pids.max")
	s.fails(1, file, "checkpoint", "--app", "2001", s.id)
	s.leaveRoom(3)
	s.app(2002).dies("ping")
	log := s.monitorLog()
	if !strings.Contains(log, file) || !strings.Contains(log, "an instance takes 7 processes") || !strings.Contains(log, "echo ") {
		t.Errorf("the log does not name %s and the way out:\n%s", file, log)
	}
	a.expect("v", "get", "k")
	s.leaveRoom(100)
	s.app(2002).expect("+PONG", "ping")
	s.checkpoint(2001)
}

// With a policy that allows for it, an idle app makes room for one that cannot have an instance otherwise.
func TestLimitEvicts(t *testing.T) {
	s := serveRedis(t, "--spares", "0", "--instances", "100")
	const apps = 4
	for i := range apps {
		s.app(3000+i).expect("+OK", "set", "k", fmt.Sprint(i))
	}
	time.Sleep(time.Second) // they are idle
	s.leaveRoom(20)         // for two; each that is evicted leaves a checkpoint, which is one process
	for i := range apps {
		s.app(4000+i).expect("+PONG", "ping")
		time.Sleep(time.Second)
	}
	if n := s.states()["evicted"]; n != 2 {
		t.Errorf("%d apps are evicted: %v", n, s.states())
	}
	s.leaveRoom(100)
	for i := range apps {
		s.app(3000+i).expect(fmt.Sprint(i), "get", "k")
	}
}
