package socket

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// What the app sends while its instance is being replaced has not died with it.
func TestCrashKeepsWhatWasNotDelivered(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			w := newWorld(t)
			w.tcp = network == "tcp"
			asked := make(chan struct{})
			w.onCrash = func(app instance.App, ids []engine.ConnID) (gate.Replacement, error) {
				<-asked
				if w.tcp {
					ids = nil
				}
				return w.plumb(app, ids)
			}
			s := byUID(t)
			s.CrashReply = "-ERR crashed\n"
			if w.tcp {
				s.Endpoints = []spec.Endpoint{{Network: "tcp", Address: freePort(t)}}
			}
			_, addr := w.open(s)
			c := dial(t, network, addr)
			c.must("1", "incr")
			go func() {
				time.Sleep(50 * time.Millisecond) // the instance has died of it
				_, _ = io.WriteString(c, "incr\necho later\n")
				close(asked)
			}()
			c.must("-ERR crashed", "crash")
			for _, want := range []string{"1\n", "later\n"} {
				if line, err := c.r.ReadString('\n'); line != want {
					t.Errorf("got %q, %v; want %q", line, err, want)
				}
			}
		})
	}
}

// A crash reply in the middle of a reply, or in the place of one that has left, would mean something else.
func TestCrashInMidReply(t *testing.T) {
	for _, v := range []struct {
		name, reply string
		policy      spec.CrashPolicy
	}{
		{"without a crash reply", "", spec.CrashPolicy{Mode: spec.CrashRestore}},
		{"with a crash reply", "-ERR\n", spec.CrashPolicy{Mode: spec.CrashRestore}},
		{"with retries", "-ERR\n", spec.CrashPolicy{Mode: spec.CrashRetry, Retries: 3}},
	} {
		for _, how := range []string{"half", "half 20ms"} {
			t.Run(v.name+", "+how, func(t *testing.T) {
				w := newWorld(t)
				s := byUID(t)
				s.CrashReply, s.OnCrash = v.reply, v.policy
				_, addr := w.open(s)
				c := dial(t, "unix", addr)
				c.must("1", "incr")
				c.ends("par", "%s", how)
				w.mu.Lock()
				if n := len(w.all); n != 2 {
					t.Errorf("%d instances were made, want 2: a request was delivered again", n)
				}
				w.mu.Unlock()
				dial(t, "unix", addr).must("1", "incr")
			})
		}
	}
}

// Connections that are at rest are not concerned by a crash that comes from nowhere.
func TestDeathWhileIdle(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(byUID(t))
	c := dial(t, "unix", addr)
	c.must("1", "incr")
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	time.Sleep(20 * time.Millisecond)
	w.mu.Lock()
	f := w.byApp[app]
	w.mu.Unlock()
	_ = f.cmd.Process.Kill()
	<-f.exited
	c.must("1", "incr")
}

// A request of which more may be to come cannot be told from what follows it.
func TestCrashInLongRequest(t *testing.T) {
	w := newWorld(t)
	s := byUID(t)
	s.CrashReply = "-ERR crashed\n"
	_, addr := w.open(s)
	c := dial(t, "unix", addr)
	c.must("1", "incr")
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		_, _ = io.WriteString(c, "crash\n"+strings.Repeat("echo no\n", 1<<20))
	}()
	all, err := io.ReadAll(c.r)
	if n := strings.Count(string(all), "no"); n > 0 {
		t.Errorf("%d pieces of a request that died were carried out", n)
	}
	if !strings.HasPrefix(string(all), "-ERR crashed\n") {
		t.Errorf("got %q, %v", all[:min(len(all), 100)], err)
	}
}

// A connection whose transaction in a checkpoint is over is not put back into it.
func TestRestoreOfFinishedTransaction(t *testing.T) {
	w := newWorld(t)
	g, addr := w.open(byUID(t))
	c := dial(t, "unix", addr)
	c.must("1", "incr")
	app := instance.App("uid:" + strconv.Itoa(os.Getuid()))
	var during, after []engine.ConnID
	hold := func(f func(gate.Held)) {
		t.Helper()
		err := g.Hold(t.Context(), app, func(_ context.Context, h gate.Held) (gate.Replacement, error) {
			f(h)
			return gate.Replacement{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _ = io.WriteString(c, "wait\n")
	eventually(t, "the request is under way", func() bool {
		done := make(chan bool, 1)
		g.post(func() { done <- g.apps[app].open > 0 })
		return <-done
	})
	hold(func(h gate.Held) {
		for _, id := range h.Conns {
			during = append(during, id)
		}
		if len(during) != 1 || len(h.Open) != 2 || h.Open[1] != during[0] {
			t.Errorf("the connection is %v in the checkpoint, and %v", during, h.Open)
		}
	})
	_, _ = io.WriteString(dial(t, "unix", addr), "go\n")
	if line, err := c.r.ReadString('\n'); line != "waited\n" {
		t.Fatalf("%q, %v", line, err)
	}
	hold(func(h gate.Held) { after = h.Open })
	for _, id := range after {
		if len(during) == 1 && id == during[0] {
			t.Error("it would be put back into a transaction that is over")
		}
	}
	c.must("2", "incr")
}

// An app that is a connection ends with it, and what it had with it.
func TestConnectionAppsEnd(t *testing.T) {
	w := newWorld(t)
	g, addr := w.open(declare(t.TempDir()))
	stays := dial(t, "unix", addr)
	stays.must("1", "incr")
	before := descriptors(t) - 2*w.made()
	for i := range 40 {
		c := dial(t, "unix", addr)
		switch i % 4 {
		case 0:
			c.must("1", "incr")
		case 1: // gone before there is an answer
			_, _ = io.WriteString(c, "incr\n")
		case 2: // never asked anything
		case 3:
			_, _ = c.ask("crash")
		}
		_ = c.Close()
	}
	eventually(t, "nothing is left of them", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.byApp) == 1 && len(w.left) == 40 && len(g.Stats()) == 1
	})
	stays.must("2", "incr")
	eventually(t, "no descriptor is left of them", func() bool {
		return descriptors(t) <= before+2*w.made() // the fakes' own pidfds and control sockets stay until the test ends
	})
}

// What an app had asked before it closed its connection is carried out before its instance ends.
func TestLastRequestsAreCarriedOut(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	file := filepath.Join(t.TempDir(), "f")
	c := dial(t, "unix", addr)
	c.must("x", "echo x")
	_, _ = fmt.Fprintf(c, "echo a\nsleep 50ms\necho b\ntouch %s\n", file)
	_ = c.Close()
	eventually(t, "the last request is carried out", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

// An app that is a process keeps its instance from connection to connection until it ends.
func TestProcessAppsEnd(t *testing.T) {
	w := newWorld(t)
	s := declare(t.TempDir())
	s.AppKey = spec.AppKeyPID
	g, addr := w.open(s)
	cmd := exec.Command("python3", "-c", `
import socket, sys
for want in b"1", b"2":
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b"incr\n")
    if s.recv(10).strip() != want: sys.exit(3)
    s.close()
print("done", flush=True)
sys.stdin.read()
`, addr)
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
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if b, err := io.ReadAll(io.LimitReader(out, 5)); string(b) != "done\n" {
		t.Fatalf("%q, %v, %v", b, err, cmd.Wait())
	}
	eventually(t, "its connections are closed", func() bool { return g.Stats()[0].Connections == 0 })
	time.Sleep(20 * time.Millisecond)
	w.mu.Lock()
	if len(w.left) != 0 || len(w.byApp) != 1 {
		t.Errorf("it runs, and %d apps have left and %d are there", len(w.left), len(w.byApp))
	}
	w.mu.Unlock()
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.left) == 1 && len(w.byApp) == 0 && len(g.Stats()) == 0
	})
}

func TestDeparted(t *testing.T) {
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"uid:1": false, "cgroup:/a": false, "conn:3": true,
		fmt.Sprintf("pid:%d.%d", os.Getpid(), start): false, fmt.Sprintf("pid:%d.%d", os.Getpid(), start+1): true, "pid:4194305.1": true,
	} {
		if got := Departed(instance.App(key)); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
