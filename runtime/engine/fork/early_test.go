package fork

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// evaluator answers each line, a Python expression, with its value.
const evaluator = `
import os, socket, sys
exec(sys.argv[2])
held = 0
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(8)
while True:
    c, _ = s.accept()
    for line in c.makefile():
        try:
            v = eval(line)
        except Exception as e:
            v = e
        c.sendall((repr(v) + "\n").encode())
`

// evaluated is an instance of the evaluator with one connection.
type evaluated struct {
	t     testing.TB
	in    *instance
	c     net.Conn
	r     *bufio.Reader
	conns engine.Conns
}

func startEvaluator(t *testing.T) *service {
	t.Helper()
	return startEvaluatorWith(t, "", func(*engine.Target) {})
}

// startEvaluatorWith starts one that has run some Python before, and adopts it as is declared.
func startEvaluatorWith(t testing.TB, python string, declare func(*engine.Target)) *service {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("python3", "-c", evaluator, sock, python)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it was destroyed with the service
		_ = cmd.Wait()
	})
	log := logrus.New()
	target := engine.Target{
		PID: cmd.Process.Pid, Listeners: []engine.Address{{Network: "unix", Address: sock}}, Dir: dir, Log: logrus.NewEntry(log),
	}
	declare(&target)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s, err := New().Adopt(context.Background(), target)
		if err == nil {
			t.Cleanup(func() {
				if err := s.Destroy(); err != nil {
					t.Error(err)
				}
			})
			return s.(*service)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func branchEvaluator(t testing.TB, s *service, img engine.Image, keep ...engine.ConnID) *evaluated {
	t.Helper()
	in, plumbed, err := s.Branch(context.Background(), img, keep)
	if err != nil {
		t.Fatal(err)
	}
	return evaluate(t, in, plumbed)
}

// evaluate activates an instance and talks to it over the connection that it has, or a new one.
func evaluate(t testing.TB, in engine.Instance, plumbed []engine.Plumbed) *evaluated {
	t.Helper()
	e := &evaluated{t: t, in: in.(*instance), conns: engine.Conns{}}
	if err := in.Activate(); err != nil {
		t.Fatal(err)
	}
	if len(plumbed) == 0 {
		fd, err := in.Dial(0)
		e.c = dialFile(t, fd, err)
	} else {
		e.c = dialFile(t, plumbed[0].FD, nil)
	}
	e.r = bufio.NewReader(e.c)
	ino, err := strconv.ParseUint(e.eval("os.fstat(c.fileno()).st_ino"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	e.conns[ino] = 1
	return e
}

func (e *evaluated) eval(format string, args ...any) string {
	e.t.Helper()
	if err := e.c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	q := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(e.c, q); err != nil {
		e.t.Fatal(q, err)
	}
	v, err := e.r.ReadString('\n')
	if err != nil {
		e.t.Fatal(q, err)
	}
	return strings.TrimSpace(v)
}

func (e *evaluated) must(want, format string, args ...any) {
	e.t.Helper()
	if v := e.eval(format, args...); v != want {
		e.t.Errorf("%s: got %s, want %s", fmt.Sprintf(format, args...), v, want)
	}
}

func (e *evaluated) park() {
	e.t.Helper()
	if err := e.in.Park(5 * time.Second); err != nil {
		e.t.Fatal(err)
	}
}

func (e *evaluated) activate() {
	e.t.Helper()
	if err := e.in.Activate(); err != nil {
		e.t.Fatal(err)
	}
}

// checkpoint parks the instance, takes one and lets it go on.
func (e *evaluated) checkpoint(resume func()) engine.Captured {
	e.t.Helper()
	e.park()
	c, err := e.in.s.CheckpointEarly(context.Background(), e.in, e.conns, resume)
	if err != nil {
		e.t.Fatal(err)
	}
	e.activate()
	return c
}

// What an instance does between resume and the end of its checkpoint is not in the image, and the checkpoint's handle
// is that of the instance.
func TestCheckpointEarly(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	for round := range 20 {
		e.must("None", "globals().update(held=%d)", round)
		called := 0
		c := e.checkpoint(func() {
			called++
			e.activate()
			e.must("None", "globals().update(held=-1)")
			// An end of file has to reach the other side at once, not when the image has let go of its copy.
			e.must("b''", "[p := socket.socketpair(), p[0].close(), p[1].recv(1)][2]")
			e.park()
			e.activate()
		})
		if called != 1 {
			t.Fatalf("resume was called %d times", called)
		}
		if c.Timing.Pause <= 0 || c.Timing.Pause > c.Timing.Total {
			t.Errorf("implausible timing %+v", c.Timing)
		}
		var h instanceHandle
		if err := json.Unmarshal(c.Instance, &h); err != nil || h.Leader.PID != e.in.PID() {
			t.Errorf("handle %s of instance %d: %v", c.Instance, e.in.PID(), err)
		}
		e.must("-1", "held")
		restored := branchEvaluator(t, s, c.Image, 1)
		restored.must(strconv.Itoa(round), "held")
		if err := restored.in.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.Image.Discard(); err != nil {
			t.Fatal(err)
		}
	}
}

// An instance that dies after resume leaves a checkpoint that is whole.
func TestCheckpointEarlyDeath(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "globals().update(held=7)")
	e.park()
	c, err := s.CheckpointEarly(context.Background(), e.in, e.conns, func() {
		e.activate()
		if _, err := fmt.Fprintln(e.c, "os._exit(3)"); err != nil {
			t.Error(err)
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.in.PIDFD()), Events: unix.POLLIN}}, 20_000); n != 1 {
			t.Errorf("the instance lives: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.in.Kill(); err != nil {
		t.Fatal(err)
	}
	branchEvaluator(t, s, c.Image, 1).must("7", "held")
}

// Each checkpoint begins with what the one before had to hide: descriptors come, go and change their kind in between.
func TestCheckpointChangingDescriptors(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	for _, step := range []struct{ change, look, want string }{
		{"os.dup2(os.eventfd(5), 50)", "os.eventfd_read(50)", "5"},
		{"os.dup2(os.eventfd(6), 51)", "(os.eventfd_read(50), os.eventfd_read(51))", "(5, 6)"},
		{"os.dup2(os.open('/dev/null', os.O_RDONLY), 50)", "os.readlink('/proc/self/fd/50')", "'/dev/null'"},
		{"os.close(51)", "os.path.lexists('/proc/self/fd/51')", "False"},
		{"os.dup2(os.eventfd(7), 51)", "os.eventfd_read(51)", "7"},
	} {
		e.eval("%s", step.change)
		c := e.checkpoint(nil)
		for range 2 { // the first one's reading must not be the second one's
			restored := branchEvaluator(t, s, c.Image, 1)
			restored.must(step.want, "%s", step.look)
			if err := restored.in.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", e.in.PID())); err != nil {
		t.Error(err)
	}
}

// Without what newer kernels and more privileges allow, children are found by pidfds and control pages by descriptors.
func TestCheckpointOtherwise(t *testing.T) {
	defer func(a, b func() bool) { translates, freely = a, b }(translates, freely)
	no := func() bool { return false }
	for name, set := range map[string]func(){
		"pidfd":        func() { translates = no },
		"memfd":        func() { freely = no },
		"pidfd, memfd": func() { translates, freely = no, no },
	} {
		was, were := translates, freely
		set()
		t.Run(name, func(t *testing.T) {
			TestCheckpointEarly(t)
			TestCheckpointChangingDescriptors(t)
		})
		translates, freely = was, were
	}
}
