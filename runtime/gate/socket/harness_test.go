package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// The tests' service is this binary, run again: see service_test.go.
func TestMain(m *testing.M) {
	if os.Getenv("SOCKET_TEST_SERVICE") != "" {
		serve()
		os.Exit(0)
	}
	if path := os.Getenv("SOCKET_TEST_CLIENT"); path != "" {
		measure(path)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A fake is an engine.Instance over a real process, which parks itself on request.
type fake struct {
	w       *world
	cmd     *exec.Cmd
	pidfd   int
	paths   []string
	tcp     bool
	control *os.File
	acks    *bufio.Reader
	active  atomic.Bool
	stopped bool // parked by force
	exited  chan struct{}
}

// world is the monitor of a test and counts what instances do.
type world struct {
	t       *testing.T
	strict  bool
	running atomic.Int32
	clashes atomic.Int32
	parks   atomic.Int32
	wakes   atomic.Int32

	mu          sync.Mutex
	all         []*fake
	byApp       map[instance.App]*fake
	checkpoints []engine.Conns
	onCrash     func(app instance.App, open []engine.ConnID) (gate.Replacement, error)
	onInstance  func(app instance.App) error
	ckptErr     error
	left        []instance.App
	tcp         bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, strict: true, byApp: map[instance.App]*fake{}}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, f := range w.all {
			_ = f.cmd.Process.Kill()
			<-f.exited
			_ = unix.Close(f.pidfd)
			_ = f.control.Close()
		}
		if n := w.clashes.Load(); n != 0 {
			t.Errorf("%d times two instances were active at once", n)
		}
	})
	return w
}

// spawn starts a parked service process; plumbed descriptors are served as connections.
func (w *world) spawn(plumbed ...*os.File) (*fake, error) {
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SOCKET_TEST_SERVICE="+filepath.Join(dir, "sock"), "PLUMBED="+strconv.Itoa(len(plumbed)))
	if w.tcp {
		cmd.Env = append(cmd.Env, "SOCKET_TEST_TCP=1")
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, plumbed...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f := &fake{w: w, cmd: cmd, control: ours, acks: bufio.NewReader(ours), exited: make(chan struct{}), tcp: w.tcp}
	if f.pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
		return nil, err
	}
	line, err := f.acks.ReadString('\n')
	if err != nil {
		return nil, err
	}
	f.paths = []string{strings.TrimSpace(line)}
	go func() { _ = cmd.Wait(); close(f.exited) }()
	w.mu.Lock()
	w.all = append(w.all, f)
	w.mu.Unlock()
	return f, nil
}

func (f *fake) PID() int   { return f.cmd.Process.Pid }
func (f *fake) PIDFD() int { return f.pidfd }

func (f *fake) tell(s string) (string, error) {
	if _, err := io.WriteString(f.control, s+"\n"); err != nil {
		return "", engine.ErrGone
	}
	line, err := f.acks.ReadString('\n')
	if err != nil {
		return "", engine.ErrGone
	}
	return strings.TrimSpace(line), nil
}

func (f *fake) Activate() error {
	if !f.active.CompareAndSwap(false, true) {
		return nil
	}
	f.w.wakes.Add(1)
	if f.w.running.Add(1) > 1 && f.w.strict && f.w.others(f) {
		f.w.clashes.Add(1)
	}
	if f.stopped {
		f.stopped = false
		return f.cmd.Process.Signal(unix.SIGCONT)
	}
	_, err := f.tell("go")
	return err
}

// others reports whether another instance than f can run. One that was killed stays active until it is cleared away.
func (w *world) others(f *fake) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.all {
		if o != f && o.active.Load() && pollNow(o.pidfd, unix.POLLIN) == 0 {
			return true
		}
	}
	return false
}

// made is how many instances there have been.
func (w *world) made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

func (f *fake) Park(limit time.Duration) error {
	if !f.active.Load() {
		return nil
	}
	answer, err := f.tell("park " + max(limit, time.Millisecond).String())
	if err == nil && answer == "busy" && limit == 0 {
		answer, f.stopped = "ok", true
		err = f.cmd.Process.Signal(unix.SIGSTOP)
	}
	if err == nil && answer == "busy" {
		return engine.ErrBusy
	}
	f.active.Store(false)
	f.w.running.Add(-1)
	f.w.parks.Add(1)
	return err
}

func (f *fake) Dormant() bool { return !f.active.Load() }

func (f *fake) Dial(i int) (int, error) {
	if f.tcp {
		c, err := net.Dial("tcp", f.paths[0])
		if err != nil {
			return -1, err
		}
		file, err := c.(*net.TCPConn).File()
		_ = c.Close()
		if err != nil {
			return -1, err
		}
		defer file.Close()
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		return fd, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: f.paths[0]}); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.ECONNREFUSED) {
			return -1, engine.ErrGone
		}
		return -1, err
	}
	return fd, nil
}

func (f *fake) Exit() engine.Exit              { return engine.Exit{Code: -1, Signal: 11} }
func (f *fake) Memory() (engine.Memory, error) { return engine.Memory{}, nil }
func (f *fake) Handle() json.RawMessage        { return nil }
func (f *fake) Kill() error {
	_ = f.cmd.Process.Kill()
	<-f.exited
	if f.active.CompareAndSwap(true, false) {
		f.w.running.Add(-1)
	}
	return nil
}

func (w *world) Instance(_ context.Context, app instance.App) (engine.Instance, error) {
	if w.onInstance != nil {
		if err := w.onInstance(app); err != nil {
			return nil, err
		}
	}
	f, err := w.spawn()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.byApp[app] = f
	w.mu.Unlock()
	return f, nil
}

func (w *world) Checkpoint(_ context.Context, app instance.App, _ string, conns engine.Conns) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.byApp[app]; !f.Dormant() {
		w.t.Error("checkpoint of an instance that is active")
	}
	w.checkpoints = append(w.checkpoints, conns)
	return w.ckptErr
}

func (w *world) Crashed(_ context.Context, app instance.App, _ engine.Exit, open []engine.ConnID) (gate.Replacement, error) {
	w.mu.Lock()
	if w.byApp[app].active.CompareAndSwap(true, false) {
		w.running.Add(-1)
	}
	w.mu.Unlock()
	if w.onCrash != nil {
		return w.onCrash(app, open)
	}
	return w.plumb(app, open)
}

func (w *world) Left(_ context.Context, app instance.App) error {
	w.mu.Lock()
	f := w.byApp[app]
	delete(w.byApp, app)
	w.left = append(w.left, app)
	w.mu.Unlock()
	if f != nil {
		return f.Kill()
	}
	return nil
}

// plumb makes a new instance in which the given connections exist already.
func (w *world) plumb(app instance.App, ids []engine.ConnID) (gate.Replacement, error) {
	var (
		rep   gate.Replacement
		files []*os.File
	)
	for _, id := range ids {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return rep, err
		}
		ino, err := inode(p[1])
		if err != nil {
			return rep, err
		}
		rep.Plumbed = append(rep.Plumbed, engine.Plumbed{ID: id, FD: p[0], Inode: ino})
		files = append(files, os.NewFile(uintptr(p[1]), "plumbed"))
	}
	f, err := w.spawn(files...)
	for _, x := range files {
		_ = x.Close()
	}
	if err != nil {
		return rep, err
	}
	w.mu.Lock()
	w.byApp[app] = f
	w.mu.Unlock()
	rep.Instance = f
	return rep, nil
}

func declare(dir string) *spec.Service {
	return &spec.Service{
		Endpoints:  []spec.Endpoint{{Network: "unix", Address: filepath.Join(dir, "public.sock")}},
		AppKey:     spec.AppKeyConnection,
		Checkpoint: spec.CheckpointPolicy{Mode: spec.CheckpointManual},
		OnCrash:    spec.CrashPolicy{Mode: spec.CrashRestore}, Concurrency: spec.Strict, History: 1,
	}
}

// open serves s until the test ends and returns the gate and the public address.
func (w *world) open(s *spec.Service, change ...func(*Config)) (*Gate, string) {
	t := w.t
	t.Helper()
	w.strict = s.Concurrency == spec.Strict
	log := logrus.New()
	log.SetOutput(testLog{t})
	cfg := Config{Service: s, Monitor: w, Log: logrus.NewEntry(log)}
	for _, f := range change {
		f(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the gate does not end")
		}
	})
	addr := s.Endpoints[0].Address
	for range 500 {
		if s.Endpoints[0].Network == "unix" { // a connection would be an app
			if _, err := os.Stat(addr); err == nil {
				return g, addr
			}
		} else if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return g, addr
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the gate does not listen")
	return nil, ""
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if os.Getenv("SOCKET_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(p)
	}
	return len(p), nil
}

// A client speaks the test service's line protocol.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, network, addr string) *client {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) ask(format string, args ...any) (string, error) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c, format+"\n", args...); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (c *client) must(want, format string, args ...any) {
	c.t.Helper()
	got, err := c.ask(format, args...)
	if err != nil || got != want {
		c.t.Fatalf("%s: got %q, %v; want %q", fmt.Sprintf(format, args...), got, err, want)
	}
}

// ends sends a line and wants all that comes before the end of the connection.
func (c *client) ends(want, format string, args ...any) {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, format+"\n", args...); err != nil {
		c.t.Errorf("%s: %v", format, err)
	}
	all, err := io.ReadAll(c.r)
	if string(all) != want || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s: got %q, %v; want %q and the end", fmt.Sprintf(format, args...), all, err, want)
	}
}

// unanswered wants that nothing comes unasked, neither a byte nor an end.
func (c *client) unanswered() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := c.r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("got %q, %v", b, err)
	}
}
