package socket

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// ErrClosed says that the gate does not serve any more.
var ErrClosed = errors.New("the gate is closed")

// Config is what a Gate needs. Service and Monitor are required.
type Config struct {
	Service *spec.Service // not changed, and not to be changed while the gate serves
	Monitor gate.Monitor
	Log     *logrus.Entry // nil: the standard logger
	// Originals are the paths at which the gate can see the service's own sockets, one for each endpoint; the public
	// ones get the same mode and owner. Empty: those of the socket that stands at the public path, if any, else 0777.
	Originals []string
	// Bound, if set, is called by Serve once it has all public endpoints.
	Bound func()
	// MaxConns limits open connections, MaxConnsPerApp those of one app; what comes on top is closed.
	// 0 means what RLIMIT_NOFILE allows, and three quarters of the total.
	MaxConns, MaxConnsPerApp int
	// After is the number of the last connection of an earlier monitor: with the app key "connection" it names an app
	// whose instance no later client may get.
	After engine.ConnID
	// Apps are those of an earlier monitor that are still to come to an end: see Departed.
	Apps []instance.App
	// Known are all apps of earlier monitors: they do not get spares as new ones do.
	Known []instance.App
	// RouteID names the service to package route, if the instances' listeners stand in its Sites. "": they do not.
	RouteID string
	// Resume are apps of an earlier monitor whose instances may have direct connections.
	Resume []instance.App
}

// A Gate is the socket gate of one service. It implements gate.Gate.
type Gate struct {
	cfg     Config
	log     *logrus.Entry
	eps     []*endpoint
	strict  bool
	path    spec.Path // how connections become direct, or PathProxied
	proxied string    // why they do not
	routing *routing  // nil: apps are not led
	timers  spec.TimerPolicy
	untimed bool // it was said that the policy has no effect
	start   time.Time

	// The loop's own state.
	epfd, wakefd int
	events       [128]unix.EpollEvent
	entries      []entry
	freeSlots    []int32
	sched        schedule
	halted       []*app // apps whose instances are halted
	clock        clockwork
	alarms       alarms
	apps         map[instance.App]*app
	nconns       int
	lastID       engine.ConnID
	unmapped     int64 // see unmappedUID
	reserve      int   // a descriptor to give up when there is none left
	accepting    bool
	lastRefusal  int64

	work, again []*conn // to be pumped in this round, in the next one
	settling    []*app  // a boundary is wanted
	handing     []*app  // have connections that are to be handed over
	diag        prober
	over        []*app // may have ended
	departing   int    // apps that a worker takes leave of
	spare       []*conn
	sent        *conn // the last one whose request was forwarded in this round
	lone        *conn // the one that was the only one with events lately
	alone       int   // for how many rounds
	env         envelope
	scratch     []byte
	pool        [][]byte
	carries     bool // descriptors have been seen in flight: look for them everywhere
	stamp       int64

	// What other goroutines hand to the loop.
	mu      sync.Mutex
	posted  []func()
	closed  bool
	workers sync.WaitGroup
	ctx     context.Context // Serve's, for the workers

	unled atomic.Pointer[string] // why apps are not led although they should be

	statsMu sync.Mutex
	stats   map[instance.App]*counters
}

var _ gate.Gate = (*Gate)(nil)

// New makes a gate. Nothing is bound before Serve.
func New(cfg Config) (*Gate, error) {
	if cfg.Service == nil || cfg.Monitor == nil {
		return nil, errors.New("a socket gate needs a service and a monitor")
	}
	if len(cfg.Originals) != 0 && len(cfg.Originals) != len(cfg.Service.Endpoints) {
		return nil, fmt.Errorf("%d original sockets for %d endpoints", len(cfg.Originals), len(cfg.Service.Endpoints))
	}
	g := &Gate{
		lastID: cfg.After,
		cfg:    cfg, log: cfg.Log, strict: cfg.Service.Concurrency != spec.Parallel, start: time.Now(),
		apps: map[instance.App]*app{}, stats: map[instance.App]*counters{}, reserve: -1, diag: prober{fd: -1},
		scratch: make([]byte, scratchSize), pool: make([][]byte, 0, 64), entries: make([]entry, 1),
	}
	var err error
	if g.unmapped, err = unmappedUID(); err != nil {
		return nil, err
	}
	g.timers = cfg.Service.Timers
	g.path, g.proxied = cfg.Service.DirectPath()
	if g.log == nil {
		g.log = logrus.NewEntry(logrus.StandardLogger())
	}
	for i, e := range cfg.Service.Endpoints {
		ep := &endpoint{index: i, network: e.Network, address: e.Address, fd: -1}
		if len(cfg.Originals) != 0 {
			ep.original = cfg.Originals[i]
		}
		g.eps = append(g.eps, ep)
	}
	if g.cfg.MaxConns == 0 {
		g.cfg.MaxConns = connLimit()
	}
	if g.cfg.MaxConnsPerApp == 0 {
		g.cfg.MaxConnsPerApp = max(1, g.cfg.MaxConns/4*3)
	}
	if g.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if g.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(g.epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return g, nil
}

// connLimit is how many connections the descriptors of this process allow: each takes two.
func connLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 400
	}
	n := min(r.Cur, 1<<20)
	if n < 320 {
		return 32
	}
	return int(n-256) / 2
}

// Serve binds the public endpoints and moves bytes until ctx is done. It returns nil then, and an error if an
// endpoint cannot be bound. It locks the calling goroutine's thread. A Gate serves once.
func (g *Gate) Serve(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	g.ctx = ctx
	defer g.close(cancel)
	var err error
	if g.reserve, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("reserve descriptor: %w", err)
	}
	if _, err = g.watch(g.wakefd, unix.EPOLLIN, entry{kind: slotWake}); err != nil {
		return fmt.Errorf("watch the wake-up descriptor: %w", err)
	}
	for _, key := range g.cfg.Apps {
		g.watchClient(g.lookUp(key))
	}
	for _, ep := range g.eps {
		if err := ep.listen(); err != nil {
			return err
		}
		if ep.slot, err = g.watch(ep.fd, unix.EPOLLIN, entry{kind: slotListener, ep: ep}); err != nil {
			return fmt.Errorf("watch %s: %w", ep.address, err)
		}
	}
	g.openRoutes()
	for _, key := range g.cfg.Resume {
		a := g.lookUp(key)
		g.watchClient(a)
		if a.phase == phaseEmpty {
			a.former = true
			g.load(a)
		}
	}
	g.accepting = true
	if g.cfg.Bound != nil {
		g.cfg.Bound()
	}
	stop := context.AfterFunc(ctx, g.wake)
	defer stop()
	g.run(ctx)
	return nil
}

// Stats returns counters of every app that the gate has seen, sorted by app.
func (g *Gate) Stats() []gate.AppStats {
	g.statsMu.Lock()
	defer g.statsMu.Unlock()
	all := make([]gate.AppStats, 0, len(g.stats))
	for key, c := range g.stats {
		all = append(all, c.stats(key, g.proxied, g.unled.Load()))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].App < all[j].App })
	return all
}

// Transactions implements gate.TransactionCounter.
func (g *Gate) Transactions(key instance.App) uint64 {
	g.statsMu.Lock()
	c := g.stats[key]
	g.statsMu.Unlock()
	if c == nil {
		return 0
	}
	return c.transactions.Load()
}

// post has the loop call f. It returns false, and f is never called, if the gate is closed.
func (g *Gate) post(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.posted = append(g.posted, f)
	g.wakeLocked()
	return true
}

func (g *Gate) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wakeLocked()
	}
}

func (g *Gate) wakeLocked() {
	one := [8]byte{1}
	_, _ = unix.Write(g.wakefd, one[:]) // EAGAIN: it is readable anyway
}

// takePosted runs what other goroutines have posted.
func (g *Gate) takePosted() {
	var b [8]byte
	_, _ = unix.Read(g.wakefd, b[:])
	g.mu.Lock()
	posted := g.posted
	g.posted = nil
	g.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// close ends the gate: workers first, since what they bring back has to be released.
func (g *Gate) close(cancel context.CancelFunc) {
	cancel()
	for _, a := range g.apps {
		g.dropHolds(a, ErrClosed)
	}
	g.drainWorkers()
	g.mu.Lock()
	posted := g.posted
	g.posted, g.closed = nil, true
	g.mu.Unlock()
	for _, f := range posted {
		f()
	}
	for _, a := range g.apps {
		g.dropHolds(a, ErrClosed)
		if a.client >= 0 {
			_ = unix.Close(a.client)
		}
		for len(a.conns) > 0 {
			g.remove(a.conns[0])
		}
		g.letGo(a)
		if a.inst != nil && !a.inst.Dormant() {
			if err := a.inst.Park(100 * time.Millisecond); err != nil && !errors.Is(err, engine.ErrGone) {
				g.logApp(a).WithError(err).Warn("the instance goes on running without a gate")
			}
		}
	}
	g.closeRoutes()
	for _, ep := range g.eps {
		if err := ep.close(); err != nil {
			g.log.WithError(err).Error("cannot give the public endpoint back")
		}
	}
	if g.reserve >= 0 {
		_ = unix.Close(g.reserve)
	}
	g.diag.close()
	_ = unix.Close(g.wakefd)
	_ = unix.Close(g.epfd)
}

// drainWorkers waits until all workers and callers of Hold have brought back what they had taken.
func (g *Gate) drainWorkers() {
	done := make(chan struct{})
	go func() {
		g.workers.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
			g.takePosted()
		}
	}
}

func (g *Gate) logApp(a *app) *logrus.Entry { return g.log.WithField("app", string(a.key)) }
