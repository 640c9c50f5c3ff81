package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// app is an app and its instance. Everything is guarded by Broker.mu, except where it says so.
type app struct {
	key     instance.App
	lane    *lane
	changed *sync.Cond // users, exclusive, wanted or capturing

	users     int  // transactions between enter and leave
	exclusive bool // somebody has the instance to himself, and no transaction is under way
	wanted    int  // how many wait for that: new transactions wait for them
	capturing bool // a checkpoint of the instance is being completed: it may run, but not be ended

	inst   engine.Instance // nil: there is none yet, or none any more
	copies *copies         // of inst
	oneway bool            // something was sent that nobody has waited for

	transactions, switches, breaks uint64
	waited                         int64 // ns

	since    int       // transactions since the last checkpoint by policy
	captured time.Time // when that was
	timed    bool      // a goroutine waits for the next one to be due
	process  int       // pidfd of an app that is a process; -1: none
	refused  string    // why the monitor has given it no instance
}

// app returns the app of that key, new if it was not known.
func (b *Broker) app(key instance.App) *app {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.apps[key]; a != nil {
		return a
	}
	a := &app{key: key, lane: b.common, changed: sync.NewCond(&b.mu), process: -1}
	if a.lane == nil {
		a.lane = b.newLane()
	}
	b.apps[key] = a
	return a
}

// errUnnamed says that the driver does not tell who the sender is.
var errUnnamed = errors.New("the driver tells the process of a oneway transaction's sender to nobody; use the app key \"uid\"")

// sender names the app that has sent tx.
func (b *Broker) sender(tx *binder.Transaction) (*app, error) {
	if b.cfg.Service.AppKey == spec.AppKeyUID {
		return b.app(instance.App("uid:" + strconv.Itoa(tx.SenderUID))), nil
	}
	if tx.SenderPID == 0 {
		if tx.OneWay {
			return nil, errUnnamed
		}
		return nil, errors.New("the sender is in a pid namespace that cannot be seen from here; use the app key \"uid\"")
	}
	start, err := startTime(tx.SenderPID)
	if err != nil {
		return nil, err
	}
	a := b.app(instance.App(fmt.Sprintf("pid:%d.%d", tx.SenderPID, start)))
	b.watchProcess(a)
	return a, nil
}

// startTime tells processes with the same pid apart.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("the sender is gone: %w", err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// take waits until a's instance is nobody else's and takes it: transactions of a wait until give. mu is held, but not while it
// waits. With idle, it also waits for the transactions that are under way.
func (b *Broker) take(ctx context.Context, a *app, idle bool) error {
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		a.changed.Broadcast()
	})
	defer stop()
	a.wanted++
	defer func() { a.wanted-- }()
	for {
		if b.closed {
			return ErrClosed
		}
		if err := ctx.Err(); err != nil {
			a.changed.Broadcast()
			return fmt.Errorf("app %s: %w", a.key, err)
		}
		if !a.exclusive && !a.capturing && (!idle || a.users == 0) {
			a.exclusive = true
			return nil
		}
		a.changed.Wait()
	}
}

// give ends take. mu is held.
func (b *Broker) give(a *app) {
	a.exclusive = false
	a.changed.Broadcast()
}

// set makes in the app's instance, which may be nil. The caller has the app to himself; mu is not held.
func (b *Broker) set(a *app, in engine.Instance) error {
	var c *copies
	var err error
	if in != nil {
		if c, err = b.claim(in); err == nil {
			err = b.watch.instance(a, in)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		in, c = nil, nil
	}
	a.inst, a.copies, a.oneway = in, c, false
	return err
}

// provide asks the monitor for an instance, if there is none. mu is held, but not while it asks.
func (b *Broker) provide(a *app) error {
	if err := b.take(b.ctx, a, false); err != nil {
		return err
	}
	defer b.give(a)
	if a.inst != nil {
		return nil
	}
	b.mu.Unlock()
	in, err := b.cfg.Monitor.Instance(b.ctx, a.key)
	if err == nil {
		err = b.set(a, in)
	}
	b.mu.Lock()
	a.captured = time.Now()
	if err != nil {
		if text := err.Error(); text != a.refused { // once, and not for every transaction
			a.refused = text
			b.logApp(a).WithError(err).Warn("the app gets no instance")
		}
		return err
	}
	a.refused = ""
	return nil
}

// watchProcess has the broker told when the process that a is has ended.
func (b *Broker) watchProcess(a *app) {
	b.mu.Lock()
	defer b.mu.Unlock()
	value, isPID := strings.CutPrefix(string(a.key), "pid:")
	if !isPID || a.process >= 0 {
		return
	}
	number, start, _ := strings.Cut(value, ".")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		// Looked at after the pidfd was had: it is this process that it stands for.
		if now, e := startTime(pid); e != nil || strconv.FormatUint(now, 10) != start {
			_ = unix.Close(fd)
			err = unix.ESRCH
		}
	}
	if err == nil {
		a.process = fd
		if err = b.watch.process(a, fd); err == nil {
			return
		}
		_ = unix.Close(fd)
		a.process = -1
	}
	if !errors.Is(err, unix.ESRCH) {
		b.logApp(a).WithError(err).Error("cannot watch the app's process; its instance stays")
		return
	}
	b.spawn(func() { b.left(a) })
}

func (a *app) forgetProcess() {
	if a.process >= 0 {
		_ = unix.Close(a.process)
		a.process = -1
	}
}

// spawn runs f on a goroutine for which Close waits. mu is held.
func (b *Broker) spawn(f func()) {
	if b.closed {
		return
	}
	b.workers.Add(1)
	go func() {
		defer b.workers.Done()
		f()
	}()
}

// left takes leave of an app whose process has ended.
func (b *Broker) left(a *app) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.take(b.ctx, a, true) != nil {
		return
	}
	defer b.give(a)
	a.forgetProcess()
	if err := b.rest(a); err != nil && !errors.Is(err, engine.ErrGone) {
		b.logApp(a).WithError(err).Warn("the app's instance does not rest; it is ended all the same")
	}
	a.inst, a.copies = nil, nil
	delete(b.apps, a.key)
	b.mu.Unlock()
	err := b.cfg.Monitor.Left(b.ctx, a.key)
	b.mu.Lock()
	if err != nil {
		b.logApp(a).WithError(err).Error("cannot take leave of the app")
	}
}
