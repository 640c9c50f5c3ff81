package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"corsa.dev/corsa/integration/services"
)

// echoServer answers each line with the same, after a greeting that tells who the client is, as the kernel says. It blocks in
// recv in a thread for each connection.
const echoServer = `
import os, socket, socketserver, struct, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        pid, uid, gid = struct.unpack("3i", self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.wfile.write(b"hello\n")
        for line in self.rfile:
            if line == b"who\n":
                pid, uid, gid = struct.unpack("3i", self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                line = b"%d %d\n" % (pid, uid)
            elif line == b"quit\n":
                return
            self.wfile.write(line)
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads, request_queue_size = True, 128
with Server(sys.argv[1], Handler) as s:
    os.chmod(sys.argv[1], 0o777)
    s.serve_forever()
`

// direct serves command and hands its connections over.
func serveDirect(t *testing.T, command func(dir, socket string) []string, flags ...string) *served {
	t.Helper()
	dir := publicDir(t)
	s := &served{corsa: newCorsa(t), id: "direct", socket: filepath.Join(dir, "s.sock")}
	args := append([]string{"serve", "--detach", "--id", s.id, "--socket", s.socket, "--path", "handover", "--writable", dir}, flags...)
	s.ok(append(append(args, "--"), command(dir, s.socket)...)...)
	t.Cleanup(func() {
		if text, err := os.ReadFile(filepath.Join(s.root, s.id, "monitor.log")); err == nil && t.Failed() {
			t.Logf("the monitor says:\n%s", text)
		}
	})
	return s
}

func directRedis(flags ...string) func(dir, socket string) []string {
	return func(_, socket string) []string { return append(redisFlags(socket), flags...) }
}

func directEcho(dir, socket string) []string {
	script := filepath.Join(dir, "echo.py")
	if err := os.WriteFile(script, []byte(echoServer), 0o644); err != nil {
		panic(err)
	}
	return []string{"python3", "-B", script, socket}
}

// awaitDirect waits until all of the app's n connections are direct.
func (s *served) awaitDirect(app string, n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d direct connections of %s", n, app), func() bool {
		a := s.apps()[app]
		return a.Direct == n && a.Connections == n && a.Path == "direct" && a.Untracked
	})
}

// TestDirectWorkloads takes each real program through divergence, a checkpoint, a restore, a crash and the death of the monitor
// on connections that are the apps' own sockets.
func TestDirectWorkloads(t *testing.T) {
	for _, service := range services.All() {
		for _, concurrency := range []string{"strict", "parallel"} {
			t.Run(service.Name+"/"+concurrency, func(t *testing.T) {
				if missing := service.Missing(); missing != "" {
					t.Fatal(missing)
				}
				directWorkload(t, service, concurrency)
			})
		}
	}
}

func directWorkload(t *testing.T, service services.Service, concurrency string) {
	s := serveDirect(t, func(dir, socket string) []string {
		scratch := filepath.Join(dir, "scratch")
		if err := os.Mkdir(scratch, 0o777); err != nil {
			t.Fatal(err)
		}
		command, err := service.Command(dir, scratch, socket)
		if err != nil {
			t.Fatal(err)
		}
		return command
	}, "--app-key", "connection", "--concurrency", concurrency)
	a, b := dialService(t, service, s.socket), dialService(t, service, s.socket)
	base := count(t, a)
	if got := count(t, b); got != base {
		t.Fatalf("the second app counts from %d, the first from %d: they share an instance", got, base)
	}
	s.awaitDirect("conn:1", 1)
	s.awaitDirect("conn:2", 1)
	count(t, a)
	s.ok("checkpoint", "--app", "conn:1", "--tag", "two", s.id)
	count(t, a)
	s.ok("restore", "--app", "conn:1", "--to", "two", s.id)
	if got := count(t, a); got != base+2 {
		t.Fatalf("count %d after the restore, want %d", got, base+2)
	}
	s.awaitDirect("conn:1", 1)
	s.kill(s.monitor())
	if got := count(t, b); got != base+1 {
		t.Fatalf("count %d after the monitor's death, want %d", got, base+1)
	}
	s.ok("apps", s.id)
	for i := range uint64(20) {
		if got := count(t, a); got != base+3+i {
			t.Fatalf("count %d under another monitor, want %d", got, base+3+i)
		}
		if got := count(t, b); got != base+2+i {
			t.Fatalf("count %d under another monitor, want %d", got, base+2+i)
		}
	}
	s.awaitDirect("conn:1", 1)
	s.ok("checkpoint", "--app", "conn:1", s.id)
	// Its app is the connection, which ends with an instance that runs. One that slept is replaced.
	before := s.apps()["conn:2"]
	s.kill(before.PID)
	eventually(t, "the crash", func() bool { return s.apps()["conn:2"].PID != before.PID })
	if now := s.apps()["conn:2"]; now.Connections != 0 && concurrency == "parallel" {
		t.Errorf("a connection goes on although its instance died while it ran: %+v", now)
	}
	if got := count(t, a); got != base+23 {
		t.Fatalf("the other app counts %d after the crash, want %d", got, base+23)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an app that is a connection ends with it", func() bool { return s.apps()["conn:1"].State != "active" && s.apps()["conn:1"].State != "dormant" })
}

// A stream sends numbers in order, in pieces of any length and several at a time, and wants them back in order.
type stream struct {
	conn   net.Conn
	write  func(n int) string
	reply  func(r *bufio.Reader) (int, error)
	sent   int
	echoed atomic.Int64
	broken error // what has come is wrong
	ended  error // why it has ended, if nothing was wrong
}

func redisEcho(n int) string { return fmt.Sprintf("ECHO %d\r\n", n) }

func redisReply(r *bufio.Reader) (int, error) {
	if _, err := r.ReadString('\n'); err != nil { // the length
		return 0, err
	}
	return plainReply(r)
}

func plainEcho(n int) string { return strconv.Itoa(n) + "\n" }

func plainReply(r *bufio.Reader) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// run goes on until ctx is done and everything has come back, or the connection has ended.
func (s *stream) run(ctx context.Context, rng *rand.Rand) {
	const window = 40_000 // more than a socket holds
	var wg sync.WaitGroup
	defer s.conn.Close()
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		r := bufio.NewReader(s.conn)
		for want := 1; ; want++ {
			n, err := s.reply(r)
			if err == nil && n == 0 {
				return // the last one
			}
			if err == nil && n != want {
				s.broken = fmt.Errorf("got %d after %d", n, want-1)
				return
			}
			if err != nil {
				if s.ended = err; errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, strconv.ErrSyntax) {
					s.broken = fmt.Errorf("after %d: %w", want-1, err)
				}
				return
			}
			s.echoed.Store(int64(n))
			if want%5000 == 0 { // what it does not read has to wait
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	send := func(text string) bool {
		for len(text) > 0 {
			n := min(len(text), 1+rng.IntN(300))
			_ = s.conn.SetDeadline(time.Now().Add(deadline))
			if _, err := io.WriteString(s.conn, text[:n]); err != nil {
				return false
			}
			text = text[n:]
		}
		return true
	}
	for ctx.Err() == nil {
		var b strings.Builder
		for range 1 + rng.IntN(1<<rng.IntN(9)) {
			s.sent++
			b.WriteString(s.write(s.sent))
		}
		if !send(b.String()) {
			break
		}
		for int(s.echoed.Load()) < s.sent-rng.IntN(window) {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}
	send(s.write(0))
	wg.Wait()
}

// TestDirectStreams has several apps with several connections each send numbered streams while they are switched, captured, joined by others
// and left without a monitor: nothing is lost, and nothing comes twice or in another order.
func TestDirectStreams(t *testing.T) {
	for name, v := range map[string]struct {
		command func(dir, socket string) []string
		write   func(int) string
		reply   func(*bufio.Reader) (int, error)
		greets  bool
	}{
		"redis":         {directRedis(), redisEcho, redisReply, false},
		"redis-threads": {directRedis("--io-threads", "3", "--io-threads-do-reads", "yes"), redisEcho, redisReply, false},
		"python":        {directEcho, plainEcho, plainReply, true},
	} {
		for _, concurrency := range []string{"strict", "parallel"} {
			t.Run(name+"/"+concurrency, func(t *testing.T) {
				s := serveDirect(t, v.command, "--concurrency", concurrency)
				open := func(uid int) *stream {
					conn, err := dialAs(uid, s.socket)
					if err != nil {
						return nil // there is no monitor just now
					}
					if v.greets {
						b := make([]byte, 6)
						_ = conn.SetDeadline(time.Now().Add(deadline))
						if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello\n" {
							_ = conn.Close() // it ended with the monitor that was about to hand it over
							return nil
						}
					}
					return &stream{conn: conn, write: v.write, reply: v.reply}
				}
				directStreams(t, s, open)
			})
		}
	}
}

func directStreams(t *testing.T, s *served, open func(uid int) *stream) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var lasting []*stream
	for i := range 6 {
		x := open(2001 + i%3)
		if x == nil {
			t.Fatal("no connection")
		}
		lasting = append(lasting, x)
	}
	for uid := 2001; uid <= 2003; uid++ {
		s.awaitDirect("uid:"+strconv.Itoa(uid), 2)
	}
	for i, x := range lasting {
		wg.Go(func() { x.run(ctx, rand.New(rand.NewPCG(uint64(i), 1))) })
	}
	moved := func() {
		t.Helper()
		var from []int64
		for _, x := range lasting {
			from = append(from, x.echoed.Load())
		}
		eventually(t, "every stream moves", func() bool {
			return !slices.ContainsFunc(lasting, func(x *stream) bool { return x.echoed.Load() <= from[slices.Index(lasting, x)] })
		})
	}
	var short []*stream
	for round := range 3 {
		moved()
		for i := range 6 { // others come and go
			if x := open(2001 + i%4); x != nil {
				brief, end := context.WithTimeout(ctx, 50*time.Millisecond)
				defer end()
				short = append(short, x)
				wg.Go(func() { x.run(brief, rand.New(rand.NewPCG(uint64(i), uint64(round)))) })
			}
		}
		s.checkpoint(2001 + round)
		moved()
		if round < 2 {
			s.kill(s.monitor())
			s.ok("apps", s.id)
		}
	}
	moved()
	stop()
	wg.Wait()
	for i, x := range append(lasting, short...) {
		if x.broken != nil || i < len(lasting) && (x.ended != nil || int(x.echoed.Load()) != x.sent) {
			t.Errorf("stream %d: %v, %v; %d of %d came back", i, x.broken, x.ended, x.echoed.Load(), x.sent)
		}
	}
}

// TestDirectRestore restores apps under streams: a connection goes on where it was or ends, and is never wrong.
func TestDirectRestore(t *testing.T) {
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveDirect(t, directRedis(), "--concurrency", concurrency)
			idle := s.app(2001)
			idle.expect("+OK", "set", "k", "1")
			s.awaitDirect("uid:2001", 1)
			s.checkpoint(2001, "--tag", "one")
			var wg sync.WaitGroup
			defer wg.Wait()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			for i := range 2 {
				wg.Go(func() {
					for ctx.Err() == nil {
						conn, err := dialAs(2001, s.socket)
						if err != nil {
							t.Error(err)
							return
						}
						x := &stream{conn: conn, write: redisEcho, reply: redisReply}
						x.run(ctx, rand.New(rand.NewPCG(uint64(i), 7)))
						if x.broken != nil {
							t.Error(x.broken)
						}
					}
				})
			}
			for range 5 {
				s.ok("restore", "--app", "2001", "--to", "one", s.id)
				idle.expect("1", "get", "k")
				idle.expect(":2", "incr", "k")
			}
			stop()
		})
	}
}

// TestDirectIdentity asserts who the service sees: the app, also with a greeting that it sends first; and that a close by the
// service is the end for the app at once, without anybody having to look.
func TestDirectIdentity(t *testing.T) {
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveDirect(t, directEcho, "--concurrency", concurrency)
			for uid := 2001; uid < 2004; uid++ {
				for range 3 {
					conn, err := dialAs(uid, s.socket)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(deadline))
					if _, err := io.WriteString(conn, "a\n"); err != nil { // before there can be anybody to read it
						t.Fatal(err)
					}
					r := bufio.NewReader(conn)
					for _, want := range []string{"hello\n", "a\n"} {
						if line, err := r.ReadString('\n'); err != nil || line != want {
							t.Fatalf("uid %d: %q, %v; want %q", uid, line, err, want)
						}
					}
					_, _ = io.WriteString(conn, "who\nquit\n")
					all, err := io.ReadAll(r)
					if want := fmt.Sprintf("0 %d\n", uid); // of a process in no pid namespace that the service can see
					err != nil || string(all) != want {
						t.Errorf("the service sees %q, %v; want %q", all, err, want)
					}
				}
			}
		})
	}
}

// TestDirectRefused asserts what is not direct, and why.
func TestDirectRefused(t *testing.T) {
	c := newCorsa(t)
	c.fails(1, "contradicts --checkpoint=every", "serve", "--path", "handover", "--checkpoint", "every", "--socket", "/run/x.sock", "--", "true")
	for name, flags := range map[string][]string{
		"path=proxied": {"--path", "proxied"}, "checkpoint=every=5": {"--checkpoint", "every=5", "--on-crash", "stop"},
		"on-crash=restore": nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := serveRedis(t, flags...)
			s.app(2001).expect("+PONG", "ping")
			if a := s.apps()["uid:2001"]; a.Path != "proxied" || !strings.Contains(a.Proxied, name) || a.Untracked || a.Transactions != 1 {
				t.Errorf("%+v", a)
			}
		})
	}
	t.Run("auto", func(t *testing.T) {
		s := serveRedis(t, "--on-crash", "stop")
		s.app(2001).expect("+PONG", "ping")
		s.awaitDirect("uid:2001", 1)
	})
}
