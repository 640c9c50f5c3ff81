package integration

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/instance"
)

func TestEveryAppHasItsOwnInstance(t *testing.T) {
	s := serveRedis(t)
	a, b := s.app(2001), s.app(2002)
	a.expect("+OK", "set", "k", "a")
	b.expect("", "get", "k")
	b.expect("+OK", "set", "k", "b")
	a.expect("a", "get", "k")
	s.app(2001).expect("a", "get", "k")

	apps := s.apps()
	if len(apps) != 2 || apps["uid:2001"].Transactions < 3 || apps["uid:2001"].Connections != 2 || apps["uid:2001"].PID == apps["uid:2002"].PID {
		t.Errorf("apps: %+v", apps)
	}
	if st := apps["uid:2001"].State + apps["uid:2002"].State; st == "activeactive" {
		t.Error("both instances run, and concurrency is strict")
	}
	if m := apps["uid:2001"].Memory; m == nil || m.Unique <= 0 || m.Unique > m.Resident {
		t.Errorf("memory: %+v", m)
	}
}

func TestWarmServiceIsTheBaseOfEveryApp(t *testing.T) {
	needs(t, "redis-cli")
	c := newCorsa(t)
	socket := filepath.Join(publicDir(t), "redis.sock")
	args := []string{"serve", "-d", "--id", "redis", "--socket", socket, "--warm", "redis-cli -s " + socket + " set warm yes", "--"}
	c.ok(append(args, redisFlags(socket)...)...)
	s := &served{corsa: c, id: "redis", socket: socket}
	a, b := s.app(2001), s.app(2002)
	a.expect("yes", "get", "warm")
	a.expect(":1", "del", "warm")
	b.expect("yes", "get", "warm")
}

func TestCheckpointAndRestore(t *testing.T) {
	s := serveRedis(t)
	a, other, b := s.app(2001), s.app(2001), s.app(2002)
	a.expect("+OK", "select", "3")
	a.expect("+OK", "set", "k", "1")
	b.expect("+OK", "set", "k", "b")
	other.expect("", "get", "k") // in database 0
	one := s.checkpoint(2001, "--tag", "first")
	a.expect("+OK", "set", "k", "2")
	two := s.checkpoint(2001)
	a.expect("+OK", "set", "k", "3")
	a.expect("+OK", "select", "5")

	for _, v := range []struct{ to, id, k string }{
		{"", two, "2"},
		{"first", one, "1"},
		{two[:6], two, "2"},
		{two + "^", one, "1"},
		{"latest~1", one, "1"},
	} {
		args := []string{"restore", "--app", "uid:2001", s.id}
		if v.to != "" {
			args = append(args[:3:3], "--to", v.to, s.id)
		}
		if got := strings.TrimSpace(s.ok(args...)); got != v.id {
			t.Errorf("restore --to %q: restored %s, want %s", v.to, got, v.id)
		}
		// The same connection, with the database that it had selected then.
		a.expect(v.k, "get", "k")
		other.expect("", "get", "k")
		b.expect("b", "get", "k")
	}
	s.ok("restore", "--app", "2001", "--to", "base", s.id)
	fresh := s.app(2001)
	fresh.expect(":0", "dbsize")

	var h instance.History
	if err := json.Unmarshal([]byte(s.ok("log", "--json", s.id, "2001")), &h); err != nil {
		t.Fatal(err)
	}
	if len(h.Checkpoints) != 2 || string(h.Checkpoints[1].Parent) != one || h.Head != instance.Base {
		t.Errorf("history: %+v", h)
	}
	if text := s.ok("log", s.id, "2001"); !strings.Contains(text, one) || !strings.Contains(text, "first") {
		t.Errorf("log:\n%s", text)
	}
}

func TestHistoryKeepsToItsBudget(t *testing.T) {
	s := serveRedis(t, "--history", "3", "--checkpoint", "every")
	a := s.app(2001)
	for range 8 {
		a.expect("+OK", "set", "k", "v")
	}
	eventually(t, "three checkpoints and no more", func() bool { return s.apps()["uid:2001"].Checkpoints == 3 })
	events := s.events()
	if !strings.Contains(events, `"type":"discard"`) {
		t.Errorf("no checkpoint was discarded:\n%s", events)
	}
}

func TestCrashIsTheAppsOwn(t *testing.T) {
	s := serveRedis(t)
	a, idle, b := s.app(2001), s.app(2001), s.app(2002)
	a.expect("+OK", "set", "k", "kept")
	idle.expect("+OK", "client", "setname", "idle")
	s.checkpoint(2001)
	a.expect("+OK", "set", "k", "lost")
	b.expect(":1", "incr", "n")
	a.dies("debug", "segfault")
	b.expect(":2", "incr", "n")
	idle.expect("kept", "get", "k")
	idle.expect("idle", "client", "getname")
	s.app(2001).expect("kept", "get", "k")
	if app := s.apps()["uid:2001"]; app.Crashes != 1 {
		t.Errorf("apps: %+v", app)
	}
	if events := s.events(); !strings.Contains(events, "SIGSEGV") || !strings.Contains(events, `"type":"replaced"`) {
		t.Errorf("events:\n%s", events)
	}
}

func TestCrashLoopIsQuarantined(t *testing.T) {
	s := serveRedis(t, "--crash-reply", `-ERR crashed\r\n`)
	b := s.app(2002)
	for range 5 {
		s.app(2001).expect("-ERR crashed", "debug", "segfault")
	}
	eventually(t, "quarantine", func() bool { return s.apps()["uid:2001"].State == "quarantined" })
	if got, err := s.app(2001).ask("ping"); err == nil && got != "-ERR crashed" {
		t.Errorf("a quarantined app was answered %q", got)
	}
	b.expect("+PONG", "ping")
	s.ok("restore", "--app", "2001", s.id)
	s.app(2001).expect("+PONG", "ping")
}

func TestOnCrashStop(t *testing.T) {
	s := serveRedis(t, "--on-crash", "stop")
	s.app(2001).dies("debug", "segfault")
	eventually(t, "stopped", func() bool { return s.apps()["uid:2001"].State == "stopped" })
	s.app(2002).expect("+PONG", "ping")
	s.ok("restore", "--app", "2001", "--to", "base", s.id)
	s.app(2001).expect("+PONG", "ping")
}

// TestRetry serves a program that dies of a request the first time that it gets it, whatever its memory says.
func TestRetry(t *testing.T) {
	needs(t, "python3")
	dir := publicDir(t)
	script, seen := filepath.Join(dir, "once.py"), filepath.Join(publicDir(t), "seen")
	if err := os.Mkdir(seen, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte(`
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); s.listen()
while True:
    c, _ = s.accept()
    while True:
        words = c.recv(1000).decode().split("\r\n")
        if len(words) < 2: break
        mark = os.path.join(sys.argv[2], words[2])
        if words[2] != "ping" and not os.path.exists(mark):
            os.mkdir(mark)
            os.abort()
        c.sendall(b"+%s\r\n" % words[2].encode())
    c.close()
`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name, request string
		checkpoint    bool // take one, which has the connection in it
	}{
		{"from the base", "one", false},
		{"from a checkpoint", "two", true},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := &served{corsa: newCorsa(t), id: "once", socket: filepath.Join(publicDir(t), "s.sock")}
			s.ok("serve", "-d", "--id", s.id, "--socket", s.socket, "--on-crash", "retry=1", "--writable", seen, "--writable", script,
				"--", "python3", script, s.socket, seen)
			a := s.app(2001)
			a.expect("+ping", "ping")
			if v.checkpoint {
				s.checkpoint(2001)
			}
			a.expect("+"+v.request, v.request)
			if n := s.apps()["uid:2001"].Crashes; n != 1 {
				t.Errorf("%d crashes", n)
			}
			a.expect("+ping", "ping")
		})
	}
}

func TestRetryGivesUp(t *testing.T) {
	s := serveRedis(t, "--on-crash", "retry=2")
	s.app(2001).dies("debug", "segfault")
	if n := s.apps()["uid:2001"].Crashes; n != 3 {
		t.Errorf("%d crashes, want the first and two more", n)
	}
}

func TestTCPService(t *testing.T) {
	c := newCorsa(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	c.ok("serve", "-d", "--id", "tcp", "--tcp", addr, "--app-key", "connection", "--",
		"redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--protected-mode", "no")
	dial := func() *client {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return newClient(t, conn)
	}
	a, b := dial(), dial()
	a.expect(":1", "incr", "n")
	a.expect(":2", "incr", "n")
	b.expect(":1", "incr", "n")
	a.expect(":3", "incr", "n")
}

func TestServiceErrors(t *testing.T) {
	s := serveRedis(t)
	s.app(2001).expect("+PONG", "ping")
	s.checkpoint(2001)
	for _, v := range []struct {
		code int
		want string
		args []string
	}{
		{1, "not a virtualised service", []string{"apps", "nope"}},
		{1, "no such app", []string{"log", s.id, "2009"}},
		{1, "no such app", []string{"checkpoint", "--app", "2009", s.id}},
		{1, "no such app", []string{"restore", "--app", "2009", s.id}},
		{1, "no such checkpoint", []string{"restore", "--app", "2001", "--to", "fff", s.id}},
		{1, "no such checkpoint", []string{"restore", "--app", "2001", "--to", "HEAD~7", s.id}},
		{1, "bad tag", []string{"checkpoint", "--app", "2001", "--tag", "base", s.id}},
		{1, "already exists", []string{"serve", "--id", s.id, "--socket", filepath.Join(s.root, "x"), "--", "redis-server"}},
		{1, "another program listens there", []string{"serve", "--id", "two", "--socket", s.socket, "--", "redis-server"}},
		{1, "not an app", []string{"log", s.id, "sid:4"}},
		{1, "not an app", []string{"checkpoint", "--app", "gid:4", s.id}},
		{1, "--app APP", []string{"checkpoint", s.id}},
		{1, "give --socket or --tcp", []string{"serve", "--", "redis-server"}},
		{1, "every, every=N", []string{"serve", "--socket", "/x", "--checkpoint", "often", "--", "redis-server"}},
		{1, "PROGRAM is missing", []string{"serve", "--socket", "/x"}},
		{1, "no such user", []string{"serve", "--socket", "/x", "--user", "no-such-user", "--", "redis-server"}},
	} {
		t.Run(strings.Join(v.args, " "), func(t *testing.T) {
			sub := &corsa{t: t, root: s.root}
			sub.fails(v.code, v.want, v.args...)
		})
	}
}

func TestFailedServeLeavesNothing(t *testing.T) {
	script := filepath.Join(publicDir(t), "refused.py")
	if err := os.WriteFile(script, []byte(`
import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
f = open(sys.argv[2], "w")
print("holding a file", flush=True)
s.accept()
`), 0o644); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(publicDir(t), "data")
	if err := os.WriteFile(data, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name, want string
		flags      []string
		program    []string
	}{
		{"no program", "executable file not found", nil, []string{"no-such-program"}},
		{"exits", "FATAL CONFIG FILE ERROR", nil, []string{"redis-server", "--nonsense", "1"}},
		{"refused", data, []string{"--writable", data, "--writable", script}, []string{"python3", script, "SOCKET", data}},
		{"warm-up fails", "exit code 7", []string{"--warm", "echo cold; exit 7"}, nil},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := &served{corsa: newCorsa(t), id: "failing", socket: filepath.Join(publicDir(t), "s.sock")}
			program := v.program
			if program == nil {
				program = redisFlags(s.socket)
			}
			args := append([]string{"serve", "-d", "--id", s.id, "--socket", s.socket}, v.flags...)
			args = append(append(args, "--"), program...)
			for i, a := range args {
				if a == "SOCKET" {
					args[i] = s.socket
				}
			}
			s.fails(1, v.want, args...)
			if left := s.traces(); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// Clients come and go while a checkpoint after every transaction holds the app's instance.
func TestConnectionsDuringCheckpoints(t *testing.T) {
	s := serveRedis(t, "--checkpoint", "every")
	for i := range 30 {
		c := s.app(2001)
		if got, err := c.ask("INCR", "n"); err != nil || got != ":"+strconv.Itoa(i+1) {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// An app whose only connection was open at a checkpoint and has been closed since can be captured again.
func TestCheckpointAfterDisconnect(t *testing.T) {
	s := serveRedis(t, "--spares", "0")
	for _, n := range []string{"1", "2", "3"} {
		c := s.app(2001)
		c.expect(":"+n, "incr", "n")
		s.checkpoint(2001)
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the connection", func() bool { return s.apps()["uid:2001"].Connections == 0 })
		s.checkpoint(2001)
	}
	s.ok("restore", "--app", "2001", s.id)
	s.app(2001).expect("3", "get", "n")
}
