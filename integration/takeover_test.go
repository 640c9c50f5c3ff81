package integration

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// control asks the control API, as curl --unix-socket would.
func (s *served) control(path string) (string, int) {
	s.t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.root, s.id, "control.sock"))
	}
	h := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: deadline}
	resp, err := h.Get("http://corsa" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data), resp.StatusCode
}

// events are those until now, as JSON lines.
func (s *served) events() string {
	s.t.Helper()
	cmd := s.command("events", "--json", s.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var lines strings.Builder
	// Reading ends with an event that is caused here, after all others.
	marker := s.app(65000)
	marker.expect("+PONG", "ping")
	d := json.NewDecoder(out)
	for {
		var e service.Event
		if err := d.Decode(&e); err != nil {
			s.t.Fatal(err)
		}
		text, err := json.Marshal(e)
		if err != nil {
			s.t.Fatal(err)
		}
		lines.Write(append(text, '\n'))
		if e.App == "uid:65000" {
			return lines.String()
		}
	}
}

func TestControlAPI(t *testing.T) {
	s := serveRedis(t)
	a := s.app(2001)
	a.expect("+PONG", "ping")
	s.checkpoint(2001)
	metrics, status := s.control("/metrics")
	for _, want := range []string{
		`corsa_transactions_total{app="uid:2001"} 1`, `corsa_checkpoints_total{trigger="manual"} 1`, "corsa_checkpoint_duration_seconds_bucket",
		`corsa_instances{state="`, `corsa_connections{app="uid:2001"} 1`,
	} {
		if status != http.StatusOK || !strings.Contains(metrics, want) {
			t.Errorf("metrics, status %d, lack %s:\n%s", status, want, metrics)
		}
	}
	if _, status := s.control("/v1/apps/uid:2009/log"); status != http.StatusNotFound {
		t.Errorf("history of an unknown app: status %d", status)
	}
	var v service.ServiceView
	text, _ := s.control("/v1/service")
	if err := json.Unmarshal([]byte(text), &v); err != nil || v.Engine != "fork" || v.Monitor != s.monitor() {
		t.Errorf("service: %s, %v", text, err)
	}
	fi, err := os.Stat(filepath.Join(s.root, s.id, "control.sock"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v", fi.Mode(), err)
	}
}

// TestMonitorDies kills the monitor while apps are busy, in every way: what was acknowledged is still there.
func TestMonitorDies(t *testing.T) {
	s := serveRedis(t, "--checkpoint", "every=20", "--history", "200")
	const apps = 16
	var acknowledged [apps]atomic.Int64
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	defer wg.Wait()
	defer stop()
	for i := range apps {
		wg.Go(func() { s.count(ctx, 3000+i, &acknowledged[i]) })
	}
	busy := func() {
		t.Helper()
		var from [apps]int64
		for i := range from {
			from[i] = acknowledged[i].Load()
		}
		eventually(t, "every app is served", func() bool {
			for i := range from {
				if acknowledged[i].Load() < from[i]+30 {
					return false
				}
			}
			return true
		})
	}
	busy()
	for _, round := range []struct {
		name string
		kill func()
	}{
		{"monitor", func() { s.kill(s.monitor()) }},
		{"monitor again", func() { s.kill(s.monitor()) }},
		{"supervisor and monitor", s.killBoth},
	} {
		t.Log(round.name)
		before := s.checkpoints()
		round.kill()
		s.ok("apps", s.id) // starts another monitor if nobody else does
		after := s.checkpoints()
		for id := range before {
			if !after[id] {
				t.Errorf("%s killed: checkpoint %s is lost", round.name, id)
			}
		}
		busy()
	}
	stop()
	wg.Wait()
	for i := range apps {
		got, err := s.app(3000+i).ask("get", "n")
		n, _ := strconv.ParseInt(got, 10, 64)
		// An increment may have been carried out and its reply lost with the monitor: once in each round.
		if have := acknowledged[i].Load(); err != nil || n < have || n > have+3 {
			t.Errorf("app %d: counts %q, %v; %d increments were answered", 3000+i, got, err, have)
		}
	}
	for app, v := range s.apps() {
		if v.Crashes != 0 {
			t.Errorf("%s crashed", app)
		}
	}
}

// count increments a counter as an app does that connects again whenever its connection ends.
func (s *served) count(ctx context.Context, uid int, acknowledged *atomic.Int64) {
	for ctx.Err() == nil {
		conn, err := dialAs(uid, s.socket)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		c := newClient(s.t, conn)
		for ctx.Err() == nil {
			got, err := c.ask("incr", "n")
			if err != nil {
				break
			}
			n, err := strconv.ParseInt(strings.TrimPrefix(got, ":"), 10, 64)
			if err != nil || n <= acknowledged.Load() {
				s.t.Errorf("app %d: counted to %q after %d", uid, got, acknowledged.Load())
				_ = conn.Close()
				return
			}
			// Replies that were lost count as answered once a later one has come.
			acknowledged.Store(n)
		}
		_ = conn.Close()
	}
}

// checkpoints is the set of all ids of all apps.
func (s *served) checkpoints() map[string]bool {
	s.t.Helper()
	ids := map[string]bool{}
	for app := range s.apps() {
		var h struct {
			Checkpoints []struct {
				ID string `json:"id"`
			} `json:"checkpoints"`
		}
		if err := json.Unmarshal([]byte(s.ok("log", "--json", s.id, app)), &h); err != nil {
			s.t.Fatal(err)
		}
		for _, c := range h.Checkpoints {
			ids[c.ID] = true
		}
	}
	return ids
}

// killBoth kills the supervisor and then the monitor.
func (s *served) killBoth() {
	s.t.Helper()
	m := s.monitor()
	s.kill(parentOf(s.t, m), m)
}

// quiet runs corsa, which must succeed, with standard streams that outlive it.
func (s *served) quiet(args ...string) {
	s.t.Helper()
	cmd := s.command(args...)
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("corsa %s: %v", strings.Join(args, " "), err)
	}
}

// kill kills processes with SIGKILL.
func (s *served) kill(pids ...int) {
	s.t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestOneMonitorTakesOver(t *testing.T) {
	s := serveRedis(t)
	s.app(2001).expect("+OK", "set", "k", "v")
	s.checkpoint(2001, "--tag", "mine")
	s.killBoth()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, stderr, code := s.run("", "apps", s.id); code != 0 {
				t.Errorf("apps: exit code %d: %s", code, stderr)
			}
		})
	}
	wg.Wait()
	// One monitor and its supervisor; those that came late have ended.
	eventually(t, "one monitor", func() bool {
		n := 0
		for _, line := range s.traces() {
			if strings.Contains(line, " monitor ") && strings.Contains(line, "--worker") {
				n++
			}
		}
		return n == 1
	})
	s.app(2001).expect("v", "get", "k")
	s.checkpoint(2001)
	s.ok("restore", "--app", "2001", "--to", "mine", s.id)
	s.app(2001).expect("v", "get", "k")
}

func TestDeleteLeavesNothing(t *testing.T) {
	for _, v := range []struct {
		name   string
		before func(*served)
	}{
		{"monitor alive", func(*served) {}},
		{"monitor dead", func(s *served) { s.killBoth() }},
		{"killed before", func(s *served) { s.ok("kill", s.id, "KILL") }},
		{"terminated before", func(s *served) {
			s.ok("kill", s.id)
			if st := s.ok("state", s.id); !strings.Contains(st, `"stopped"`) {
				s.t.Errorf("state after kill: %s", st)
			}
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := serveRedis(t)
			s.app(2001).expect("+PONG", "ping")
			s.checkpoint(2001)
			s.checkpoint(2001)
			v.before(s)
			s.ok("delete", "--force", s.id)
			if left := s.traces(); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

func TestDeleteRefusesARunningService(t *testing.T) {
	s := serveRedis(t)
	s.fails(1, "it is running", "delete", s.id)
	s.app(2001).expect("+PONG", "ping")
}

func TestForegroundServe(t *testing.T) {
	s := &served{corsa: newCorsa(t), id: "redis", socket: filepath.Join(publicDir(t), "redis.sock")}
	args := []string{"serve", "--id", s.id, "--socket", s.socket, "--"}
	cmd := s.command(append(args, redisFlags(s.socket)...)...)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	eventually(t, "the service answers", func() bool {
		conn, err := dialAs(2001, s.socket)
		if err != nil {
			return false
		}
		defer conn.Close()
		got, err := newClient(t, conn).ask("ping")
		return err == nil && got == "+PONG"
	})
	s.kill(s.monitor()) // it stays all the same
	s.ok("apps", s.id)
	s.app(2001).expect("+PONG", "ping")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	ended = true
	if err != nil {
		t.Errorf("serve: %v", err)
	}
	if !strings.Contains(out.String(), "ready to accept connections") {
		t.Errorf("serve showed %q", out.String())
	}
	if left := s.traces(); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func TestServiceBundle(t *testing.T) {
	for _, v := range []struct {
		name  string
		start func(s *served, bundle string)
	}{
		{"run", func(s *served, bundle string) { s.quiet("run", "--detach", "--bundle", bundle, s.id) }},
		{"create and start", func(s *served, bundle string) {
			s.quiet("create", "--bundle", bundle, s.id)
			s.fails(1, "not a virtualised service", "apps", s.id)
			s.ok("start", s.id)
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := &served{corsa: newCorsa(t), id: "redis", socket: filepath.Join(publicDir(t), "redis.sock")}
			bundle := t.TempDir()
			args := []string{"spec", "--service", "--bundle", bundle, "--socket", s.socket, "--history", "4", "--"}
			s.ok(append(args, redisFlags(s.socket)...)...)
			v.start(s, bundle)
			s.app(2001).expect("+OK", "set", "k", "v")
			s.app(2002).expect("", "get", "k")
			s.ok("exec", s.id, "true")
			if ps := s.ok("ps", s.id); !strings.Contains(ps, "redis-server") {
				t.Errorf("ps: %s", ps)
			}
		})
	}
}

func TestServiceSignals(t *testing.T) {
	needs(t, "python3")
	s := &served{corsa: newCorsa(t), id: "py", socket: filepath.Join(publicDir(t), "py.sock")}
	script := filepath.Join(publicDir(t), "signals.py")
	if err := os.WriteFile(script, []byte(`
import signal, socket, sys
n = 0
def count(*_):
    global n
    n += 1
signal.signal(signal.SIGUSR1, count)
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
import os; os.chmod(sys.argv[1], 0o777)
while True:
    c, _ = s.accept()
    while c.recv(100):
        c.sendall(b"+%d\r\n" % n)
    c.close()
`), 0o644); err != nil {
		t.Fatal(err)
	}
	s.ok("serve", "-d", "--id", s.id, "--socket", s.socket, "--writable", script, "--", "python3", script, s.socket)
	a := s.app(2001)
	a.expect("+0", "x")
	s.ok("kill", s.id, "USR1")
	eventually(t, "the instance got the signal", func() bool {
		got, err := a.ask("x")
		return err == nil && got == "+1"
	})
}
