package broker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// ErrClosed says that the broker does not serve any more.
var ErrClosed = errors.New("the broker is closed")

// Threads is the greatest number of threads of a broker. Each transaction that waits or is under way keeps one; reserve are left for
// what instances have to tell the broker.
const (
	Threads = 256
	reserve = 16
)

// buffer is the room, in bytes, for all requests that wait or are under way and all replies that are being passed on: the most
// that the driver gives.
const buffer = 4 << 20

// Config is what a Broker needs. All but Log and Apps is required.
type Config struct {
	Service *spec.Service // AppKey, Checkpoint, OnCrash and Concurrency count; not to be changed
	Monitor gate.Monitor
	// Device is the path of a Binder device without a context manager, in a binderfs that is mounted with stats=global.
	Device  string
	Variant servicemanager.Variant
	Log     *logrus.Entry // nil: the standard logger
	// Apps are those of an earlier monitor that are still to come to an end: processes, with the app key "pid".
	Apps []instance.App
}

// Broker is the gate of one service. It implements gate.Gate.
type Broker struct {
	cfg     Config
	log     *logrus.Entry
	manager *servicemanager.Manager
	conn    *binder.Conn
	serving chan struct{} // closed by Serve
	ctx     context.Context
	cancel  context.CancelFunc
	watch   *watcher
	workers sync.WaitGroup

	mu       sync.Mutex // of all that follows
	closed   bool
	sealed   bool // the service has been adopted: no new names
	uid      int  // of the service
	standIns map[string]*standIn
	byID     map[uint64]*standIn
	byPtr    map[uint64]*standIn
	copies   map[engine.BrokerToken]*copies
	arrived  *sync.Cond // of copies
	apps     map[instance.App]*app
	common   *lane // of all apps, if they take turns
	waiting  int   // transactions that wait
}

var _ gate.Gate = (*Broker)(nil)

// New becomes the context manager of the device, so that the service can be started and add its names. The Broker has to be
// closed by Close, or by the end of Serve.
func New(cfg Config) (*Broker, error) {
	if cfg.Service == nil || cfg.Monitor == nil {
		return nil, errors.New("a broker needs a service and a monitor")
	}
	if k := cfg.Service.AppKey; k != spec.AppKeyUID && k != spec.AppKeyPID {
		return nil, fmt.Errorf("app key %q: without corsa.ko, apps that call through Binder are named by uid or pid", k)
	}
	b := &Broker{
		cfg: cfg, log: cfg.Log, serving: make(chan struct{}), standIns: map[string]*standIn{}, byID: map[uint64]*standIn{},
		byPtr: map[uint64]*standIn{}, copies: map[engine.BrokerToken]*copies{}, apps: map[instance.App]*app{},
	}
	if b.log == nil {
		b.log = logrus.NewEntry(logrus.StandardLogger())
	}
	b.arrived = sync.NewCond(&b.mu)
	if cfg.Service.Concurrency != spec.Parallel {
		b.common = b.newLane()
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var err error
	if b.watch, err = newWatcher(b.died, b.gone); err != nil {
		return nil, err
	}
	// Nobody calls before the manager is returned but who knows the device already: what comes too early waits for mu.
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manager, err = servicemanager.New(cfg.Device, servicemanager.Options{
		Variant: cfg.Variant, Threads: Threads, Buffer: buffer, StandIn: b.register, Other: binder.HandlerFunc(b.published),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("binder broker: %w", err), b.watch.close())
	}
	b.conn = b.manager.Conn()
	return b, nil
}

// Serve passes transactions on until ctx is done, and closes the broker. Those that come before wait for it. It returns nil,
// or why the device has failed.
func (b *Broker) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, b.cancel)
	defer stop()
	for _, key := range b.cfg.Apps {
		b.watchProcess(b.app(key))
	}
	b.workers.Add(1)
	go func() {
		defer b.workers.Done()
		b.watch.run(b.ctx)
	}()
	b.workers.Add(1)
	go func() {
		defer b.workers.Done()
		b.watchStalls()
	}()
	close(b.serving)
	select {
	case <-b.ctx.Done():
		return b.Close()
	case <-b.manager.Failed():
		return errors.Join(fmt.Errorf("binder device %s: %w", b.cfg.Device, b.manager.Err()), b.Close())
	}
}

// Close ends the broker: apps see the service die. Instances are parked and live on.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.turnAway()
	b.mu.Unlock()
	b.cancel()
	b.watch.wake()
	b.workers.Wait()
	err := b.manager.Close() // waits for the handlers
	b.mu.Lock()
	apps := make([]*app, 0, len(b.apps))
	for _, a := range b.apps {
		apps = append(apps, a)
	}
	b.mu.Unlock()
	for _, a := range apps {
		a.forgetProcess()
		if a.inst != nil && !a.inst.Dormant() {
			if err := a.inst.Park(parkLimit); err != nil && !errors.Is(err, engine.ErrGone) {
				b.logApp(a).WithError(err).Warn("the instance goes on running without a gate")
			}
		}
	}
	return errors.Join(err, b.watch.close())
}

// turnAway ends all waiting for turns, instances and publications. mu is held.
func (b *Broker) turnAway() {
	b.closed = true
	for _, a := range b.apps {
		a.changed.Broadcast()
		a.lane.dismiss()
	}
	b.arrived.Broadcast()
}

// Stats implements gate.Gate. Bytes are not counted.
func (b *Broker) Stats() []gate.AppStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]gate.AppStats, 0, len(b.apps))
	for _, a := range b.apps {
		all = append(all, gate.AppStats{
			App: a.key, Transactions: a.transactions, Switches: a.switches, Waiting: time.Duration(a.waited), Breaks: a.breaks,
		})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].App < all[j].App })
	return all
}

// mount is where the device's binderfs is mounted, and the device's name in it.
func (b *Broker) mount() (dir, device string) {
	return filepath.Dir(b.cfg.Device), filepath.Base(b.cfg.Device)
}

func (b *Broker) logApp(a *app) *logrus.Entry { return b.log.WithField("app", string(a.key)) }
