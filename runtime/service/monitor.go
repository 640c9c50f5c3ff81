package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/gate/binder/broker"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// Monitor serves one virtualised service. Its methods may be called from any goroutine.
//
// It keeps one holding for every app. All that is done with an app's instance or checkpoints happens under the
// holding's lock, so different apps never wait for each other here; the ledger, which they share, has a lock of its own
// that is held for no longer than it takes to write a line to the journal. No transaction passes through any of this.
type Monitor struct {
	ref Ref
	log *logrus.Entry
	svc *spec.Service
	// outside is svc with the addresses that apps use; see Outside.
	outside *spec.Service
	rec     *record
	box     *sandbox.Sandbox
	eng     engine.Service
	gate    gate.Gate
	// broker is the gate of a Binder service without corsa.ko, else nil; brokerTarget is what the engine knows of it.
	broker       *broker.Broker
	brokerTarget *engine.Broker
	ledger       *ledger
	bus          *bus
	metrics      *metrics
	output       *printed
	spares       *spares       // nil: none are kept
	budget       *budget       // nil: there is none
	compactions  chan *holding // nil: none are made
	recovered    bool
	since        time.Time

	stopping chan struct{} // closed by requestStop
	stopOnce sync.Once

	mu       sync.Mutex
	holdings map[instance.App]*holding
}

// holding is what the monitor has of one app.
type holding struct {
	app instance.App

	mu     sync.Mutex
	inst   engine.Instance // nil without one
	images map[instance.ID]*heldImage
	spare  *spare        // what takes the instance's place if it dies; nil: there is none
	making chan struct{} // closed when the spare that is being made is there; nil: none is
	// given says that the gate has the instance: what is done with it has to be done in Gate.Hold.
	given bool
	// captured is when the last checkpoint was taken, compacting that the time to compact has not come yet.
	captured   time.Time
	compacting bool
	still      still         // at the last checkpoint
	size       sized         // of the instance
	seen       time.Duration // CPU time when the budget last looked
	ran        atomic.Int64  // when the instance was last seen to have run, in nanoseconds of Unix time
	left       bool          // the app has ended; only tagged checkpoints are left
	prior      uint64        // transactions under earlier monitors
}

// heldImage is a checkpoint.
type heldImage struct {
	engine.Image
	// foreign says that it was taken under an earlier monitor. Connection numbers in it mean nothing to this gate.
	foreign bool
	conns   []engine.ConnID // connections in it
	// pinned says that a spare is being made of it, dropped that it is to be discarded as soon as it is not.
	pinned, dropped bool
	// comparedWith is the parent against which its dirty pages were counted; "" before that.
	comparedWith instance.ID
}

// end discards the checkpoint, or has that done by who makes a spare of it. The holding's lock is held.
func (img *heldImage) end() error {
	if img.pinned {
		img.dropped = true
		return nil
	}
	return img.Discard()
}

// RunOptions are those of Run.
type RunOptions struct {
	Ref
	Recover bool
	Output  bool // descriptor 4 is the read end of the service's standard output
	Log     *logrus.Entry
}

// Run is the monitor's process: it adopts the service, or takes it over, tells the starter through descriptor 3, and
// serves until the service ends, which is no error, or ctx is done, which ends the service. If the service cannot be
// adopted the error is an *engine.Refusal or says what failed, and nothing has been changed. If another process
// is the service's monitor already, Locked(err) holds.
func Run(ctx context.Context, o RunOptions) error {
	ready := os.NewFile(readyFD, "ready")
	if ready == nil {
		return fmt.Errorf("descriptor %d is not open: the monitor is started by other verbs only", readyFD)
	}
	var output *os.File
	if o.Output {
		output = os.NewFile(outputFD, "output")
	}
	unix.CloseOnExec(readyFD)
	unix.CloseOnExec(outputFD)
	report := func(r readiness) {
		if err := errors.Join(json.NewEncoder(ready).Encode(r), ready.Close()); err != nil && !errors.Is(err, unix.EPIPE) {
			o.Log.WithError(err).Warn("cannot tell the starter")
		}
	}
	err := run(ctx, &o, output, func() { report(readiness{PID: os.Getpid()}) })
	if err != nil {
		e, _ := encodeError(err)
		if Locked(err) {
			e.Code = codeLocked
		}
		report(readiness{Error: &e})
	}
	return err
}

// Locked reports whether err says that another process is the service's monitor.
func Locked(err error) bool { return errors.Is(err, errLocked) }

func run(ctx context.Context, o *RunOptions, output *os.File, ready func()) (err error) {
	l := o.layout()
	k, err := l.tryLock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.release()) }()
	if err := k.sign(); err != nil {
		return err
	}
	m := &Monitor{
		ref: o.Ref, log: o.Log.WithField("service", o.ID), bus: newBus(), recovered: o.Recover, since: time.Now(),
		stopping: make(chan struct{}), holdings: map[instance.App]*holding{},
	}
	m.metrics = newMetrics(m)
	if m.box, err = sandbox.Load(o.Root, o.ID); err != nil {
		return err
	}
	for _, dir := range []string{l.sockets(), l.files()} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if o.Recover {
		err = m.takeOver(ctx, output)
	} else {
		err = m.adopt(ctx, output)
	}
	if err != nil {
		return errors.Join(err, m.closeBroker())
	}
	return m.serve(ctx, ready)
}

// serve answers apps and commands until the service ends.
func (m *Monitor) serve(ctx context.Context, ready func()) error {
	l := m.ref.layout()
	if err := raiseOwnLimits(); err != nil {
		m.log.WithError(err).Warn("the monitor keeps to the open files that it has")
	}
	initPID, err := m.box.InitPID()
	if err != nil {
		return m.abandon(err)
	}
	pidfd, err := unix.PidfdOpen(initPID, 0)
	if err != nil {
		return m.abandon(fmt.Errorf("sandbox %q: %w: it is not running", m.ref.ID, sandbox.ErrWrongState))
	}
	alive := os.NewFile(uintptr(pidfd), "pidfd")
	defer alive.Close()
	control, err := listenControl(l.control())
	if err != nil {
		return m.abandon(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if m.budget, err = m.newBudget(); err != nil {
		return m.abandon(errors.Join(err, control.Close()))
	}
	gateDone, controlDone := make(chan error, 1), make(chan error, 1)
	bound := make(chan struct{})
	if m.gate, err = m.newGate(func() { close(bound) }); err != nil {
		return m.abandon(errors.Join(err, control.Close()))
	}
	gateCtx, endGate := context.WithCancel(ctx)
	defer endGate()
	go func() { gateDone <- m.gate.Serve(gateCtx) }()
	select {
	case <-bound:
	case err := <-gateDone:
		return m.abandon(errors.Join(fmt.Errorf("gate: %w", err), control.Close()))
	}
	if m.budget != nil {
		go m.budget.run(gateCtx)
	}
	room := lately(roomEvery, func() bool { return hasRoom(m.rec.PID) })
	m.startSpares(func() bool { return m.budget.roomy() && room() })
	m.startCompacting(ctx)
	go func() { controlDone <- m.serveControl(ctx, control) }()
	m.event(Event{Type: EventReady, Detail: map[bool]string{true: "took over", false: "adopted"}[m.recovered]})
	m.log.WithField("recovered", m.recovered).Info("serving")
	ready()

	var failure error
	select {
	case <-ctx.Done():
	case <-m.stopping:
	case <-awaitDeath(int(alive.Fd())):
		m.log.Info("the sandbox's first process has ended")
	case failure = <-gateDone:
		gateDone <- nil
		failure = fmt.Errorf("gate: %w", failure)
	case failure = <-controlDone:
		controlDone <- nil
	}
	if failure != nil {
		// Not the service's fault: it lives on, and the supervisor starts another monitor.
		cancel()
		return errors.Join(failure, <-gateDone, <-controlDone)
	}
	m.event(Event{Type: EventStop})
	endGate()
	err = <-gateDone
	err = errors.Join(err, m.destroy(), removePublic(m.outside))
	m.bus.close()
	cancel()
	return errors.Join(err, <-controlDone, m.forget())
}

// awaitDeath returns a channel that is closed once the process behind pidfd has died.
func awaitDeath(pidfd int) <-chan struct{} {
	ch := make(chan struct{})
	go func() {
		defer close(ch)
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, -1)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return ch
}

// abandon ends a start that failed with err. A service that was adopted by this monitor is ended: it does not run any
// more and nothing else would. One that was to be taken over stays for another try.
func (m *Monitor) abandon(err error) error {
	err = errors.Join(err, m.closeBroker())
	if m.recovered {
		return errors.Join(err, m.eng.Close())
	}
	return errors.Join(err, m.destroy(), m.forget())
}

// destroy ends all instances, all checkpoints, the adopted process and what is left in the sandbox.
func (m *Monitor) destroy() error {
	errs := []error{m.spares.close()}
	m.mu.Lock()
	all := m.holdings
	m.holdings = map[instance.App]*holding{}
	m.mu.Unlock()
	for _, h := range all {
		h.mu.Lock()
		if h.inst != nil {
			errs = append(errs, ignoreGone(h.inst.Kill()))
			h.inst = nil
		}
		if h.spare != nil {
			errs = append(errs, h.spare.end())
			h.spare = nil
		}
		for id, img := range h.images {
			errs = append(errs, ignoreGone(img.end()))
			delete(h.images, id)
		}
		h.mu.Unlock()
	}
	errs = append(errs, ignoreGone(m.eng.Destroy()))
	return errors.Join(append(errs, m.box.Kill(context.Background()))...)
}

func ignoreGone(err error) error {
	if errors.Is(err, engine.ErrGone) {
		return nil
	}
	return err
}

// forget removes what says that the service is virtualised. The supervisor then knows that it is over.
func (m *Monitor) forget() error {
	l := m.ref.layout()
	var errs []error
	if m.ledger != nil {
		errs = append(errs, m.ledger.close())
	}
	for _, path := range []string{l.record(), l.journal(), l.control()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeSockets(l.sockets()), os.RemoveAll(l.files()), l.unroute(m.outside))...)
}

// removeSockets empties and removes the directory of the instances' sockets. It holds nothing but sockets.
func removeSockets(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}

func (m *Monitor) requestStop() { m.stopOnce.Do(func() { close(m.stopping) }) }

func (m *Monitor) event(e Event) {
	m.bus.publish(e)
	if !m.log.Logger.IsLevelEnabled(logrus.DebugLevel) {
		return // some events are on their way to an app that waits
	}
	entry := m.log.WithField("event", e.Type)
	if e.App != "" {
		entry = entry.WithField("app", string(e.App))
	}
	if e.Checkpoint != "" {
		entry = entry.WithField("checkpoint", e.Checkpoint)
	}
	entry.Debug(e.Detail)
}
