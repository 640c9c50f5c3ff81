package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A descriptor that a command happens to inherit does not reach a monitor that it starts, which would keep it for good.
func TestMonitorsInheritNoDescriptors(t *testing.T) {
	s := serveRedis(t)
	s.app(2001).expect("+PONG", "ping")
	s.killBoth()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := s.command("apps", s.id)
	cmd.ExtraFiles = []*os.File{w, w, w, w, w, w} // more than corsa itself passes on
	out, err := cmd.CombinedOutput()
	if err = errors.Join(err, w.Close()); err != nil || !strings.Contains(string(out), "uid:2001") {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v: somebody still has the pipe", n, err)
	}
	s.app(2001).expect("+PONG", "ping")
}

// taskset in front of serve means the service and its instances.
func TestServeInheritsTheCallersCPUs(t *testing.T) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	if before.Count() < 2 {
		t.Skip("needs two CPUs")
	}
	needs(t, "taskset")
	c := newCorsa(t)
	last := 0
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			last = cpu
		}
	}
	socket := filepath.Join(publicDir(t), "redis.sock")
	cmd := c.command(append([]string{"serve", "-d", "--id", "redis", "--socket", socket, "--"}, redisFlags(socket)...)...)
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = taskset, append([]string{"taskset", "-c", fmt.Sprint(last)}, cmd.Args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := &served{corsa: c, id: "redis", socket: socket}
	s.app(2001).expect("+PONG", "ping")
	pid := s.apps()["uid:2001"].PID
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads of the instance: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		list := regexp.MustCompile(`(?m)^Cpus_allowed_list:\t(.*)$`).FindSubmatch(status)
		if list == nil || strings.TrimSpace(string(list[1])) != fmt.Sprint(last) {
			t.Errorf("%s: CPUs %q, want %d", task, list, last)
		}
	}
}
