package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// ScaleOptions say how many apps RunScale serves.
type ScaleOptions struct {
	Instances int          // at least 20
	Corsa     string       // path of the corsa program
	Progress  func(string) // told of each step before it begins; may be nil
	Pinned    bool         // also with everything on one CPU
}

// names of rows of RunScale, in the order of the report.
const (
	rowScaleNew     = "new app"
	rowScaleMemory  = "parked redis"
	rowScaleOwn     = "of it its own pages"
	rowScaleTables  = "of it page tables"
	rowScaleStacks  = "of it kernel stacks"
	rowScaleFree    = "less MemAvailable"
	rowScaleSwitch  = "switched GET"
	rowScaleRate    = "switched GETs"
	rowScaleWave    = "switched GETs, all at once"
	rowScaleApps    = "corsa apps"
	rowScaleAppsAPI = "GET /v1/apps"
	rowScaleService = "GET /v1/service"
)

// The targets.
const (
	targetParked = 0.3 * 1024 // KiB
	targetTurns  = 20_000     // a second
)

// few is the number of apps with which many are compared.
const few = 10

// kernelStack is what one task of x86-64 has, in KiB.
const kernelStack = 16

// RunScale measures what so many apps of one redis cost: to make, to keep, to list and to serve in turn. It takes some ten
// seconds for a thousand, needs root, and removes what it made.
func RunScale(ctx context.Context, o ScaleOptions) (_ *Report, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring takes over processes as the monitor does: run it as root")
	}
	if err := scaleLimits(o.Instances); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	r := &run{
		Options: Options{Corsa: o.Corsa, Progress: o.Progress, budget: 2 * time.Second}, ctx: ctx,
		report: &Report{Began: began.Format(time.RFC3339), Wide: o.Instances, Method: scaleMethods()},
	}
	if r.report.Host, err = host(); err != nil {
		return nil, err
	}
	if r.cpus, err = newAffinity(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if r.dir, err = os.MkdirTemp("", "corsa-measure-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	cpus := []string{AnyCPU}
	if o.Pinned {
		cpus = append(cpus, PinnedCPU)
	}
	for _, cpu := range cpus {
		if err := r.cpus.self(cpu); err != nil {
			return nil, err
		}
		if err := r.scale(cpu, o.Instances); err != nil {
			return nil, err
		}
	}
	r.report.Took = time.Since(began).Seconds()
	return r.report, nil
}

// scaleLimits says which limit of this process is in the way. A monitor has the same.
func scaleLimits(n int) error {
	const each = 8 // descriptors of the monitor for an app with one connection
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	if need := uint64(n*each + 256); l.Max < need {
		return fmt.Errorf("%d apps take the monitor some %d open files, and RLIMIT_NOFILE is %d; way out: `ulimit -Hn %d` as a user who may raise it, or fewer --instances",
			n, need, l.Max, need)
	}
	return nil
}

// crowd is a served redis and the connections to it, each an app of its own.
type crowd struct {
	r            *run
	root, socket string
	cpu          string
	conns        []*conn
	client       *service.Client
}

const scaleID = "scale"

func (r *run) scale(cpu string, n int) (err error) {
	dir := r.path("scale-" + cpu)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c := &crowd{r: r, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "redis.sock"), cpu: cpu}
	r.Progress(fmt.Sprintf("redis: %d apps, %s CPU", few, cpu))
	serve := append([]string{"serve", "--detach", "--id", scaleID, "--socket", c.socket, "--path", "proxied", "--app-key", "connection", "--"},
		redisCommand(c.socket, "/").Args...)
	defer func() { err = errors.Join(err, r.corsa(c.root, "delete", "--force", scaleID)) }()
	if err := r.corsa(c.root, serve...); err != nil {
		return err
	}
	defer func() {
		for _, x := range c.conns {
			x.close()
		}
	}()
	if c.client, err = service.Open(r.ctx, service.Ref{Root: c.root, ID: scaleID}); err != nil {
		return err
	}
	defer c.client.Close()
	if _, err := c.grow(few); err != nil {
		return err
	}
	if err := errors.Join(c.serve(), c.list()); err != nil {
		return err
	}
	r.Progress(fmt.Sprintf("redis: %d apps, %s CPU", n, cpu))
	before, err := c.held()
	if err != nil {
		return err
	}
	times, err := c.grow(n)
	if err != nil {
		return err
	}
	c.addNew(times)
	if cpu == AnyCPU {
		if err := c.memory(before); err != nil {
			return err
		}
	}
	return errors.Join(c.serve(), c.list())
}

// grow connects until there are n apps, each of which has had an answer, and returns how long each took.
func (c *crowd) grow(n int) ([]time.Duration, error) {
	var times []time.Duration
	for len(c.conns) < n {
		if c.r.ctx.Err() != nil {
			return nil, context.Cause(c.r.ctx)
		}
		t0 := time.Now()
		x, err := dialPath(c.r.ctx, c.socket)
		if err != nil {
			return nil, fmt.Errorf("app %d of %d: %w", len(c.conns)+1, n, err)
		}
		c.conns = append(c.conns, x)
		if err := x.ask(noneRequest, noneReply); err != nil {
			return nil, fmt.Errorf("app %d of %d: %w", len(c.conns), n, err)
		}
		times = append(times, time.Since(t0))
	}
	return times, nil
}

var noneRequest = []byte("*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n")

const noneReply = len("$-1\r\n")

func (c *crowd) row(name string, value Dist, note string) Row {
	return Row{Name: name, Service: strconv.Itoa(len(c.conns)) + " apps", CPU: c.cpu, Value: value, Note: note}
}

// one is a quantity of which there is one value.
func one(v float64, n int, unit string) Dist { return Dist{P50: v, P99: v, Min: v, N: n, Unit: unit} }

func (c *crowd) addNew(times []time.Duration) {
	part := min(100, len(times)/2)
	first, last := describe(append([]time.Duration(nil), times[:part]...)), describe(append([]time.Duration(nil), times[len(times)-part:]...))
	row := c.row(rowScaleNew, describe(times), fmt.Sprintf("the first %d: %.0f, the last: %.0f", part, first.P50, last.P50))
	row.Parts = map[string]Dist{"first": first, "last": last}
	c.r.add(row.ratio(fmt.Sprintf("first %d", part), first, 0))
}

// holding is what the kernel says that apps hold, in KiB.
type holding struct{ charged, available float64 }

func (c *crowd) held() (holding, error) {
	info, err := c.client.Service(c.r.ctx)
	if err != nil {
		return holding{}, err
	}
	free, err := available()
	if err != nil {
		return holding{}, err
	}
	charged, err := service.Charged(info.PID)
	return holding{float64(charged) / 1024, float64(free) / 1024}, err
}

// memory adds what each app holds that has come since before.
func (c *crowd) memory(before holding) error {
	now, err := c.held()
	if err != nil {
		return err
	}
	apps, err := c.client.Apps(c.r.ctx)
	if err != nil {
		return err
	}
	var own, tables, tasks, known float64
	for _, a := range apps {
		if a.Memory == nil {
			continue
		}
		t, n, err := tablesAndThreads(a.PID)
		if err != nil {
			return err
		}
		own, tables, tasks, known = own+float64(a.Memory.Unique)/1024, tables+t, tasks+n, known+1
	}
	if known == 0 {
		return errors.New("no app has an instance")
	}
	added := len(c.conns) - few
	c.r.add(c.row(rowScaleMemory, one((now.charged-before.charged)/float64(added), added, "KiB"), "mean; charged to the cgroup").
		aim(targetParked, (now.charged-before.charged)/float64(added)))
	c.r.add(c.row(rowScaleOwn, one(own/known, int(known), "KiB"), "mean"))
	c.r.add(c.row(rowScaleTables, one(tables/known, int(known), "KiB"), "mean of VmPTE"))
	// Besides its threads an instance has an anchor and the first process of its pid namespace.
	c.r.add(c.row(rowScaleStacks, one((tasks/known+2)*kernelStack, int(known), "KiB"), fmt.Sprintf("%.0f tasks", tasks/known+2)))
	c.r.add(c.row(rowScaleFree, one((before.available-now.available)/float64(added), added, "KiB"), "mean; the whole machine"))
	return nil
}

// tablesAndThreads are the page tables of a process in KiB, and its threads.
func tablesAndThreads(pid int) (tables, threads float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "VmPTE:":
			tables, err = strconv.ParseFloat(f[1], 64)
		case "Threads:":
			threads, err = strconv.ParseFloat(f[1], 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return tables, threads, nil
}

// serve asks all apps in turn, one at a time and then all at once.
func (c *crowd) serve() error {
	var times []time.Duration
	next := 0
	began := time.Now()
	if err := c.r.repeat(2*len(c.conns), 200_000, func() error {
		t0 := time.Now()
		err := c.conns[next%len(c.conns)].ask(noneRequest, noneReply)
		times = append(times, time.Since(t0))
		next++
		return err
	}); err != nil {
		return err
	}
	rate := float64(len(times)) / time.Since(began).Seconds()
	n := len(times)
	c.r.add(c.row(rowScaleSwitch, describe(times), "one at a time"))
	c.r.add(c.rate(rowScaleRate, rate, n))
	asked := 0
	began = time.Now()
	if err := c.r.repeat(2, 1000, func() error {
		for _, x := range c.conns {
			if err := x.send(noneRequest); err != nil {
				return err
			}
		}
		for _, x := range c.conns {
			if err := x.receive(noneReply); err != nil {
				return err
			}
		}
		asked += len(c.conns)
		return nil
	}); err != nil {
		return err
	}
	c.r.add(c.rate(rowScaleWave, float64(asked)/time.Since(began).Seconds(), asked))
	return nil
}

func (c *crowd) rate(name string, rate float64, n int) Row {
	row := c.row(name, one(rate, n, "1/s"), "")
	if len(c.conns) > few {
		row.Note = "missed: at least " + strconv.Itoa(targetTurns)
		if row.Met = rate >= targetTurns; row.Met {
			row.Note = "met: at least " + strconv.Itoa(targetTurns)
		}
	}
	return row
}

// list measures the listings.
func (c *crowd) list() error {
	for _, l := range []struct {
		name string
		ask  func() error
	}{
		{rowScaleApps, func() error { return c.r.corsa(c.root, "apps", scaleID) }},
		{rowScaleAppsAPI, func() error { _, err := c.client.Apps(c.r.ctx); return err }},
		{rowScaleService, func() error { _, err := c.client.Service(c.r.ctx); return err }},
	} {
		var times []time.Duration
		for range 10 {
			t0 := time.Now()
			if err := l.ask(); err != nil {
				return err
			}
			times = append(times, time.Since(t0))
		}
		d := describe(times)
		c.r.add(c.row(l.name, d, fmt.Sprintf("%.1f for each app", d.P50/float64(len(c.conns)))))
	}
	return nil
}

func scaleMethods() []string {
	return []string{
		"One redis-server behind `corsa serve --path proxied --app-key connection`: each connection of the one client is an app, and one instance runs at a time. " +
			"All times are in µs, from the monotonic clock of the client's one thread, which makes raw system calls.",
		"new app: connect, and have the first answer. The instance is branched meanwhile, or was ready. Compared with the first hundred.",
		"parked redis: growth of what the kernel has charged to the service's cgroup, its own memory included, for each app that came after the first ten. " +
			"its own pages: those that are not shared (USS), after " +
			"one request and whatever redis did by itself; page tables: VmPTE; kernel stacks: 16 KiB for each task. The rest is descriptors, sockets, mappings and tasks.",
		"switched GET: all apps in turn, one request at a time; each needs another instance than the one before. The rate includes the client. all at once: a request to " +
			"every app, then every reply: the gate always has the next request.",
		"corsa apps: the whole command, with the start of the program. GET: the control API, over one connection.",
		"CPU \"one\": client, monitor and service on the same CPU; \"any\": no affinity.",
	}
}
