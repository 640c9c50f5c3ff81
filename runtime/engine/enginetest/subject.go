package enginetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
)

// subject is an adopted service.
type subject struct {
	t       *testing.T
	process *process
	service engine.Service
	dir     string // the engine's
	sum     uint64 // what the base holds
	nextID  engine.ConnID
	// exclusive: the engine runs one instance at a time, and only that one shows in /proc.
	exclusive bool
}

// image is a checkpoint together with what has to be in it.
type image struct {
	engine.Image
	sum   uint64
	conns engine.Conns
}

// engineDir makes a directory for the engine's sockets.
func (pr *process) engineDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(pr.dir, "e")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (pr *process) target(t *testing.T) engine.Target {
	t.Helper()
	log := logrus.New()
	log.SetLevel(logrus.DebugLevel)
	log.SetOutput(testWriter(t))
	target := engine.Target{
		PID:       pr.pid(),
		Listeners: pr.addrs[:pr.program.declared],
		Dir:       pr.engineDir(t),
		Log:       logrus.NewEntry(log),
	}
	pr.program.declare(t, &target)
	t.Cleanup(func() { // the service has been destroyed by then
		if left, err := os.ReadDir(target.Files); target.Files != "" && (err != nil || len(left) > 0) {
			t.Errorf("left of private files: %v, %v", left, err)
		}
	})
	return target
}

// declare declares p's private directory, if it has one: beside its first socket. The engine's directory is known.
func (p program) declare(t *testing.T, target *engine.Target) {
	t.Helper()
	if p.private == "" {
		return
	}
	target.Private = []string{filepath.Join(filepath.Dir(target.Listeners[0].Address), p.private)}
	target.Files = filepath.Join(target.Dir, "files")
	if err := os.Mkdir(target.Files, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

// adopt starts p, changes it a little so that the base is not the initial state, and hands it to a new engine.
func (s *suite) adopt(t *testing.T, p program, l launch) *subject {
	t.Helper()
	pr := s.start(t, p, l)
	c := pr.dial(t, 0)
	c.mutate(1000)
	c.verify(1000)
	c.close()
	pr.settle(t)
	target, e := pr.target(t), s.newEngine(t)
	service, err := e.Adopt(context.Background(), target)
	if err != nil {
		t.Fatalf("adopt %s: %v\n%s", p.name, err, describe(pr.pid()))
	}
	sub := &subject{t: t, process: pr, service: service, dir: target.Dir, sum: 1000, exclusive: engine.IsExclusive(e)}
	t.Cleanup(sub.destroy)
	return sub
}

// destroy ends everything and checks that nothing is left.
func (sub *subject) destroy() {
	t := sub.t
	if sub.service == nil {
		return
	}
	service := sub.service
	sub.service = nil
	if err := service.Destroy(); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if err := service.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if !within(2*time.Second, func() bool { return len(processesOf(sub.process.binary)) == 0 }) {
		for _, pid := range processesOf(sub.process.binary) {
			t.Errorf("process left behind by Destroy:\n%s", describe(pid))
		}
	}
}

func (sub *subject) base() image {
	return image{Image: sub.service.Base(), sum: sub.sum}
}

// logWriter passes lines on to the test's log until the test has ended.
type logWriter struct {
	t    *testing.T
	done chan struct{}
}

func testWriter(t *testing.T) io.Writer {
	w := &logWriter{t: t, done: make(chan struct{})}
	t.Cleanup(func() { close(w.done) })
	return w
}

func (w *logWriter) Write(p []byte) (int, error) {
	select {
	case <-w.done:
	default:
		w.t.Log(strings.TrimSpace(string(bytes.TrimSpace(p))))
	}
	return len(p), nil
}

// app is one instance with the connections of the app that it belongs to, and with what has to be in it.
type app struct {
	t     *testing.T
	sub   *subject
	in    engine.Instance
	sum   uint64
	conns map[engine.ConnID]*conn
	ends  engine.Conns // the instance's ends
	on    bool         // it was activated, and not parked or killed since

	unseen bool // /proc has not shown it yet
}

// branch makes an instance of img and re-plumbs the connections in keep.
func (sub *subject) branch(img image, keep ...engine.ConnID) *app {
	sub.t.Helper()
	in, plumbed, err := sub.service.Branch(context.Background(), img.Image, keep)
	if err != nil {
		sub.t.Fatalf("branch: %v", err)
	}
	a := &app{
		t: sub.t, sub: sub, in: in, sum: img.sum,
		conns: make(map[engine.ConnID]*conn), ends: make(engine.Conns),
	}
	if !in.Dormant() {
		sub.t.Fatal("a new instance is not dormant")
	}
	for _, p := range plumbed {
		if a.conns[p.ID] != nil {
			sub.t.Fatalf("connection %d was plumbed twice", p.ID)
		}
		a.conns[p.ID] = a.adopted(p.FD)
		a.ends[p.Inode] = p.ID
	}
	if a.unseen = sub.exclusive; !a.unseen {
		a.holdsEnds()
	}
	if len(plumbed) != len(keep) {
		sub.t.Fatalf("%d connections were plumbed, want %d", len(plumbed), len(keep))
	}
	for _, id := range keep {
		if a.conns[id] == nil {
			sub.t.Fatalf("connection %d was not plumbed", id)
		}
	}
	return a
}

// serving adopts a state program and returns an active instance of the base and a connection to it.
func (s *suite) serving(t *testing.T, name string) (*app, engine.ConnID) {
	t.Helper()
	sub := s.adopt(t, mustProgram(t, "state", name), launch{})
	a := sub.branch(sub.base())
	a.activate()
	return a, a.dial(0)
}

// adopted makes a conn of a descriptor that the engine has returned for this instance.
func (a *app) adopted(fd int) *conn {
	a.t.Helper()
	c := adopted(a.t, fd, a.in.PID())
	if a.sub.exclusive {
		c.wake = a.wake
	}
	return c
}

// wake activates an instance that is to run and that another one has made dormant.
func (a *app) wake() {
	a.t.Helper()
	if a.on && a.in.Dormant() {
		if err := a.in.Activate(); err != nil {
			a.t.Fatalf("activate: %v\n%s", err, describe(a.in.PID()))
		}
	}
}

// sockets returns the inodes of the sockets that the instance, which is to run, holds.
func (a *app) sockets() map[uint64]bool {
	a.t.Helper()
	a.wake()
	if in, ok := a.in.(engine.Settler); ok && a.on {
		if err := in.Settle(); err != nil {
			a.t.Fatalf("settle: %v\n%s", err, describe(a.in.PID()))
		}
	}
	return sockets(a.t, a.in.PID())
}

// holdsEnds checks that the instance has its ends of all connections.
func (a *app) holdsEnds() {
	a.t.Helper()
	held := a.sockets()
	for inode, id := range a.ends {
		if !held[inode] {
			a.t.Fatalf("connection %d: the instance holds no socket:[%d]", id, inode)
		}
	}
}

// dial adds a connection to the i-th listener of an active instance.
func (a *app) dial(i int) engine.ConnID {
	a.t.Helper()
	before := a.sockets()
	fd, err := a.in.Dial(i)
	if err != nil {
		a.t.Fatalf("dial listener %d: %v", i, err)
	}
	c := a.adopted(fd)
	if via := c.number("via"); via != uint64(i) {
		a.t.Fatalf("dialled listener %d, but listener %d answered", i, via)
	}
	a.sub.nextID++
	id := a.sub.nextID
	for inode := range a.sockets() {
		if !before[inode] {
			a.ends[inode] = id
		}
	}
	a.conns[id] = c
	return id
}

// hangUp closes a connection and waits until the instance, which has to be active, has closed its end.
func (a *app) hangUp(id engine.ConnID) {
	a.t.Helper()
	for inode, of := range a.ends {
		if of != id {
			continue
		}
		a.wake()
		a.conns[id].close()
		if !eventually(func() bool { return !a.sockets()[inode] }) {
			a.t.Fatalf("the instance does not close connection %d, whose client is gone\n%s", id, describe(a.in.PID()))
		}
		delete(a.ends, inode)
		delete(a.conns, id)
		return
	}
	a.t.Fatalf("connection %d is not known", id)
}

func (a *app) activate() {
	a.t.Helper()
	if err := a.in.Activate(); err != nil {
		a.t.Fatalf("activate: %v\n%s", err, describe(a.in.PID()))
	}
	if a.in.Dormant() {
		a.t.Fatal("an active instance calls itself dormant")
	}
	a.on = true
	if a.unseen {
		a.unseen = false
		a.holdsEnds()
	}
}

func (a *app) park() {
	a.t.Helper()
	a.on = false
	if err := a.in.Park(a.sub.process.program.parkLimit()); err != nil {
		a.t.Fatalf("park: %v\n%s", err, describe(a.in.PID()))
	}
	if !a.in.Dormant() {
		a.t.Fatal("a parked instance does not call itself dormant")
	}
}

// mutate changes the state over connection id.
func (a *app) mutate(id engine.ConnID, n uint64) {
	a.t.Helper()
	a.conns[id].mutate(n)
	a.sum += n
}

func (a *app) verify(id engine.ConnID) {
	a.t.Helper()
	a.conns[id].verify(a.sum)
}

// checkpoint captures the instance, which has to be dormant.
func (a *app) checkpoint() image {
	a.t.Helper()
	ends := make(engine.Conns, len(a.ends))
	for inode, id := range a.ends {
		ends[inode] = id
	}
	img, timing, err := a.sub.service.Checkpoint(context.Background(), a.in, ends)
	if err != nil {
		a.t.Fatalf("checkpoint: %v\n%s", err, describe(a.in.PID()))
	}
	if !a.in.Dormant() {
		a.t.Fatal("the instance is not dormant after a checkpoint")
	}
	if timing.Total <= 0 || timing.Fork <= 0 || timing.Fork > timing.Total || timing.Capture > timing.Total {
		a.t.Errorf("implausible timing of a checkpoint: %+v", timing)
	}
	return image{Image: img, sum: a.sum, conns: ends}
}

// kill ends the instance; its connections end too.
func (a *app) kill() {
	a.t.Helper()
	a.on = false
	if err := a.in.Kill(); err != nil {
		a.t.Fatalf("kill: %v", err)
	}
	for _, c := range a.conns {
		c.expectEnd()
		c.close()
	}
}

func (img image) discard(t *testing.T) {
	t.Helper()
	if err := img.Discard(); err != nil {
		t.Errorf("discard: %v", err)
	}
}
