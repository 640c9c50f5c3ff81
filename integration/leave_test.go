package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// serveKeyed serves a redis whose apps are named by key.
func serveKeyed(t *testing.T, key string, flags ...string) *served {
	t.Helper()
	s := &served{corsa: newCorsa(t), id: key + "-" + strconv.Itoa(os.Getpid()), socket: filepath.Join(publicDir(t), "redis.sock")}
	args := append([]string{"serve", "--detach", "--id", s.id, "--socket", s.socket, "--app-key", key}, flags...)
	s.ok(append(append(args, "--"), redisFlags(s.socket)...)...)
	return s
}

// once connects, asks one thing and closes.
func (s *served) once(want string, words ...string) {
	s.t.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	newClient(s.t, conn).expect(want, words...)
	if err := conn.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// descriptors is how many the monitor has open.
func (s *served) descriptors() int {
	s.t.Helper()
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(s.monitor()) + "/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	return len(fds)
}

// A flood of short connections, each an app, leaves nothing behind.
func TestThousandConnectionApps(t *testing.T) {
	const flood = 1000
	s := serveKeyed(t, "connection")
	s.once("+PONG", "ping")
	eventually(t, "the first one has left", func() bool { return len(s.apps()) == 0 && s.spares().Base == 1 })
	descriptors, processes := s.descriptors(), s.processes()
	for range flood {
		s.once("+PONG", "ping")
	}
	eventually(t, "all have left", func() bool { return len(s.apps()) == 0 && s.spares().Base == 1 })
	eventually(t, "as few descriptors and processes as before", func() bool {
		return s.descriptors() <= descriptors+2 && s.processes() <= processes // 2: somebody may ask the control API
	})
	fi, err := os.Stat(filepath.Join(s.root, s.id, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > 4<<20 {
		t.Errorf("the journal has %d bytes", fi.Size())
	}
	if left := s.sockets(); len(left) != 1 { // that of the spare
		t.Errorf("instances' sockets are left: %v", left)
	}
}

// processes is how many there are in the service's cgroup.
func (s *served) processes() int {
	s.t.Helper()
	n := 0
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range procs {
		text, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(text), s.cgroup()) {
			n++
		}
	}
	return n
}

func (s *served) sockets() []string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.root, s.id, "sockets", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// What an app has tagged is kept when it leaves, and nothing else.
func TestTaggedCheckpointStays(t *testing.T) {
	s := serveKeyed(t, "connection", "--checkpoint", "every")
	c := s.app(0)
	c.expect("+OK", "set", "k", "v")
	s.ok("checkpoint", "--app", "conn:1", "--tag", "kept", s.id)
	c.expect("+OK", "set", "k", "w")
	if err := c.conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the app has left", func() bool { return s.apps()["conn:1"].State == "left" })
	if a := s.apps()["conn:1"]; a.Checkpoints != 1 || a.PID != 0 || a.Memory != nil {
		t.Errorf("%+v", a)
	}
	if text := s.ok("log", s.id, "conn:1"); !strings.Contains(text, "kept") {
		t.Errorf("log:\n%s", text)
	}
	s.fails(1, "has ended", "restore", "--app", "conn:1", "--to", "kept", s.id)
	// A new monitor knows of it too, and of nobody else.
	s.app(0).expect("+PONG", "ping")
	s.kill(s.monitor())
	eventually(t, "the new monitor has taken over", func() bool {
		apps := s.apps()
		return len(apps) == 1 && apps["conn:1"].State == "left"
	})
}

// An app that is a process keeps its instance while it runs, also when the monitor changes.
func TestProcessAppLeaves(t *testing.T) {
	needs(t, "redis-cli")
	s := serveKeyed(t, "pid")
	cmd := exec.Command("sh", "-c", `exec python3 -c '
import socket, sys
def ask(b):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b); r = s.recv(100); s.close(); return r
for line in sys.stdin:
    print(ask(line.strip().encode() + b"\r\n").decode().strip(), flush=True)
' "$0"`, s.socket)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it ends by itself if all goes well
	answers := newClient(t, nil)
	answers.r.Reset(out)
	ask := func(want, line string) {
		t.Helper()
		if _, err := in.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
		if got, err := answers.r.ReadString('\n'); strings.TrimSpace(got) != want {
			t.Fatalf("%s: got %q, %v", line, got, err)
		}
	}
	ask(":1", "incr n")
	ask(":2", "incr n")
	s.once("+PONG", "ping") // this process is another app
	if apps := s.apps(); len(apps) != 2 {
		t.Errorf("apps: %+v", apps)
	}
	s.kill(s.monitor())
	s.ok("apps", s.id)
	eventually(t, "the new monitor serves", func() bool {
		conn, err := net.Dial("unix", s.socket)
		return err == nil && conn.Close() == nil
	})
	ask(":3", "incr n")
	s.kill(s.monitor()) // the next one has not heard of the process when that ends
	s.ok("apps", s.id)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has left", func() bool { return len(s.apps()) == 1 })
	if err := unix.Kill(cmd.Process.Pid, 0); err == nil {
		t.Error("its process is there")
	}
}
