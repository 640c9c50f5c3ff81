package measure

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

//go:embed service.py
var pythonService string

// subject is a service, adopted by an engine if it has one.
type subject struct {
	name    string
	threads int
	sized   bool // speaks the protocol of service.py
	dir     string
	path    string // of its socket
	cmd     *exec.Cmd
	proc    *os.Process // nil: not started
	engine  engine.Engine
	svc     engine.Service
	echo    []byte // a request that changes nothing
	reply   int    // length of its reply
	crash   []byte // a request at which it dies
	conns   engine.ConnID
	pages   int // that operation d can write to
	huge    spec.HugePages
}

// hugeService is the name of the service of 512 MiB in huge pages.
const hugeService = "512 MiB huge"

// startSubject starts a service and has the engine adopt it, if that is not nil. name is what ParseService gives.
func startSubject(ctx context.Context, dir, name string, e engine.Engine) (*subject, error) {
	s := newSubject(dir, name, e)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	err := s.start(ctx)
	if err == nil && e != nil {
		err = s.adopt(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("service %s: %w", s.name, err), s.close())
	}
	return s, nil
}

func newSubject(dir, name string, e engine.Engine) *subject {
	s := &subject{
		name: name, engine: e, dir: filepath.Join(dir, name), threads: 1, sized: true, echo: operation('e', 0), reply: 16,
		crash: operation('x', 0),
	}
	s.path = filepath.Join(s.dir, "s.sock")
	mib, vmas := "16", "0"
	kind, number, _ := strings.Cut(name, "=")
	switch kind {
	case "redis":
		s.sized, s.echo, s.reply, s.threads, s.crash = false, []byte("GET none\r\n"), len("$-1\r\n"), 5, []byte("SHUTDOWN NOSAVE\r\n")
	case "threads":
		s.threads = threadsOfThreaded
		if number != "" {
			if n, err := strconv.Atoi(number); err == nil { // ParseService has seen to that
				s.threads = n
			}
		}
	case "vmas":
		vmas = number
	case "huge":
		mib = number
		s.name, s.huge = number+" MiB huge", spec.HugePagesAuto
	default:
		mib = name
		s.name += " MiB"
	}
	if n, err := strconv.Atoi(mib); err == nil && s.sized { // ParseService has seen to that
		s.pages = n << 20 / os.Getpagesize()
	}
	s.cmd = exec.Command("python3", "-c", pythonService, s.path, mib, strconv.Itoa(s.threads), vmas)
	if !s.sized {
		s.cmd = redisCommand(s.path, s.dir)
	}
	s.cmd.Dir = s.dir
	return s
}

func redisCommand(path, dir string) *exec.Cmd {
	return exec.Command("redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
		"--dir", dir, "--enable-debug-command", "yes")
}

// startLimit is how long a service may take until it answers, and until it is adopted.
const startLimit = 30 * time.Second

// start runs the service until it answers.
func (s *subject) start(ctx context.Context) error {
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.proc = s.cmd.Process
	if err := s.answers(ctx, !s.sized); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	return nil
}

// answers waits until the service has answered and closed the connection again. It may have to fill itself before.
func (s *subject) answers(ctx context.Context, empty bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("%s is not ready after %v", s.cmd.Path, startLimit))
	defer cancel()
	c, err := dialPath(ctx, s.path)
	if err != nil {
		return err
	}
	if empty {
		err = c.populate()
	}
	if err == nil {
		err = c.ask(s.echo, s.reply)
	}
	c.close()
	if err != nil {
		return err
	}
	// The service has to have closed its end, or it has a connection that nobody can name.
	return awaitClosed(ctx, s.proc.Pid)
}

// adopt puts the service under the engine.
func (s *subject) adopt(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("%s is not adopted after %v", s.cmd.Path, startLimit))
	defer cancel()
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	s.svc, err = s.engine.Adopt(ctx, engine.Target{
		PID: s.proc.Pid, Listeners: []engine.Address{{Network: "unix", Address: s.path}}, Dir: s.dir, Log: logrus.NewEntry(quiet),
		HugePages: s.huge,
	})
	return err
}

// awaitClosed waits until only the listening socket is left.
func awaitClosed(ctx context.Context, pid int) error {
	for range 500 {
		open, err := socketInodes(pid)
		if err != nil {
			return err
		}
		if len(open) <= 1 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not close a connection that was closed", pid)
}

// pause waits a little for somebody else.
func pause(ctx context.Context) error {
	select {
	case <-time.After(5 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close ends the service and everything made of it.
func (s *subject) close() error {
	var err error
	if s.svc != nil {
		err = s.svc.Destroy()
	}
	if s.proc != nil {
		_ = s.proc.Kill() // it may be dead and reaped already
		_, _ = s.proc.Wait()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// operation is a request of service.py.
func operation(op byte, n int) []byte {
	b := make([]byte, 16)
	b[0] = op
	binary.LittleEndian.PutUint64(b[8:], uint64(n))
	return b
}

// app is one client with its instance.
type app struct {
	*conn
	s     *subject
	in    engine.Instance
	id    engine.ConnID
	conns engine.Conns
}

// newApp branches an instance from the base, connects to it and lets it answer a few times. It is dormant then.
func (s *subject) newApp(ctx context.Context) (*app, error) {
	in, _, err := s.svc.Branch(ctx, s.svc.Base(), nil)
	if err != nil {
		return nil, err
	}
	a := &app{s: s, in: in}
	if err := a.connect(); err != nil {
		return nil, errors.Join(err, a.end())
	}
	return a, nil
}

func (a *app) connect() error {
	if err := a.in.Activate(); err != nil {
		return err
	}
	before, err := a.sockets()
	if err != nil {
		return err
	}
	fd, err := a.in.Dial(0)
	if err != nil {
		return err
	}
	if a.conn, err = newConn(fd); err != nil {
		return err
	}
	for range 20 {
		if err := a.ask(a.s.echo, a.s.reply); err != nil {
			return err
		}
	}
	after, err := a.sockets()
	if err != nil {
		return err
	}
	a.s.conns++
	a.id, a.conns = a.s.conns, engine.Conns{}
	for inode := range after {
		if !before[inode] {
			a.conns[inode] = a.id
		}
	}
	if len(a.conns) != 1 {
		return fmt.Errorf("instance %d: one connection made %d sockets", a.in.PID(), len(a.conns))
	}
	return a.park()
}

// shown calls f while the process is the dormant instance, which it may not be where all instances are one process.
func (a *app) shown(f func() error) error {
	in, ok := a.in.(engine.Settler)
	if !ok {
		return f()
	}
	err := a.in.Activate()
	if err == nil {
		err = in.Settle()
	}
	if err == nil {
		err = f()
	}
	return errors.Join(err, a.park())
}

// sockets are those of the instance, which is active.
func (a *app) sockets() (map[uint64]bool, error) {
	if in, ok := a.in.(engine.Settler); ok {
		if err := in.Settle(); err != nil {
			return nil, err
		}
	}
	return socketInodes(a.in.PID())
}

// parkLimit is how long an instance may take to reach a transaction boundary.
const parkLimit = 5 * time.Second

func (a *app) park() error { return a.in.Park(parkLimit) }

// turn has a dormant instance answer: the request is there when it wakes up.
func (a *app) turn(request []byte, reply int) error {
	if err := a.send(request); err != nil {
		return err
	}
	if err := a.in.Activate(); err != nil {
		return err
	}
	return a.receive(reply)
}

func (a *app) end() error {
	if a.conn != nil {
		a.close()
	}
	return a.in.Kill()
}

// socketInodes are the sockets that a process has open.
func socketInodes(pid int) (map[uint64]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	m := map[uint64]bool{}
	for _, n := range names {
		link, err := os.Readlink(filepath.Join(dir, n.Name()))
		if errors.Is(err, unix.ENOENT) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		var inode uint64
		if _, err := fmt.Sscanf(link, "socket:[%d]", &inode); err == nil {
			m[inode] = true
		}
	}
	return m, nil
}
