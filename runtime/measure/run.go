package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"corsa.dev/corsa/runtime/criu"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/engine/kmod"
)

// Options say what to measure.
type Options struct {
	Services []string      // as ParseService gives them; none: all that a run has
	Engines  []string      // "fork", "kmod"; none: all that this host has
	Apps     int           // most apps at once, at least 2; 0: 1000, or 16 in a quick run
	Quick    bool          // a run of some seconds
	Corsa    string        // path of the corsa program, for what goes through `corsa serve`
	CRIU     string        // for criu.Find; may be ""
	Progress func(string)  // told of each step before it begins; may be nil
	budget   time.Duration // for one loop
}

// ErrBadService says that a text does not name a service to measure.
var ErrBadService = errors.New("not a service to measure")

// largestService is in MiB.
const largestService = 1 << 16

// ParseService checks one element of Options.Services. ErrBadService.
func ParseService(s string) (string, error) {
	if s == "redis" || s == "threads" {
		return s, nil
	}
	kind, number, ok := strings.Cut(s, "=")
	if !ok {
		kind, number = "", s
	}
	n, err := strconv.Atoi(number)
	switch most := limits[kind]; {
	case err != nil || n < 1 || n > most:
		return "", fmt.Errorf("%q is %w: write redis, threads or a number of MiB from 1 to %d, or huge=MIB, threads=N or vmas=N", s, ErrBadService, largestService)
	case ok:
		return kind + "=" + strconv.Itoa(n), nil
	}
	return strconv.Itoa(n), nil
}

// limits are the greatest numbers of a service: of MiB, of threads and of mappings.
var limits = map[string]int{"": largestService, "huge": largestService, "threads": 1000, "vmas": 30000}

// choose returns the engines of that names, or all that can be had here.
func choose(names []string) ([]engine.Engine, error) {
	if len(names) == 0 {
		if kmod.Available() != nil {
			return []engine.Engine{fork.New()}, nil
		}
		return []engine.Engine{fork.New(), kmod.New()}, nil
	}
	var list []engine.Engine
	for _, name := range names {
		switch name {
		case "fork":
			list = append(list, fork.New())
		case "kmod":
			if err := kmod.Available(); err != nil {
				return nil, err
			}
			list = append(list, kmod.New())
		default:
			return nil, fmt.Errorf("there is no engine %q: write fork or kmod", name)
		}
	}
	return list, nil
}

func (o *Options) complete() {
	budget := 6 * time.Second
	services, apps := []string{"1", "16", "128", "512", "huge=512", "threads", "redis"}, 1000
	if o.Quick {
		budget = 600 * time.Millisecond
		services, apps = []string{"1", "128", "threads", "redis"}, 16
	}
	if o.budget == 0 {
		o.budget = budget
	}
	if len(o.Services) == 0 {
		o.Services = services
	}
	if o.Apps == 0 {
		o.Apps = apps
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// run is one run under way. It belongs to one locked thread.
type run struct {
	Options
	ctx    context.Context
	dir    string
	cpus   *affinity
	report *Report
	engine engine.Engine // that is being measured
	criu   criu.Program  // to compare with; none if it has no path
}

// Run measures until done. What it started is gone when it returns. It takes seconds to minutes, and needs root.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o.complete()
	engines, err := choose(o.Engines)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring takes over processes as the monitor does: run it as root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &run{Options: o, ctx: ctx, report: &Report{Quick: o.Quick, Method: methods(), Wide: o.Apps}}
	began := time.Now()
	r.report.Began = began.Format(time.RFC3339)
	if r.report.Host, err = host(); err != nil {
		return nil, err
	}
	if r.cpus, err = newAffinity(); err != nil {
		return nil, err
	}
	if err := r.findCRIU(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if r.dir, err = os.MkdirTemp("", "corsa-measure-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	for _, r.engine = range engines {
		if err := r.all(); err != nil {
			return nil, fmt.Errorf("engine %s: %w", r.engine.Name(), err)
		}
	}
	if err := r.primitives(); err != nil {
		return nil, err
	}
	// Readers look for a quantity first, for an engine then and for a service then.
	slices.SortStableFunc(r.report.Rows, func(a, b Row) int { return rank(a.Name) - rank(b.Name) })
	r.report.Took = time.Since(began).Seconds()
	return r.report, nil
}

func (r *run) all() error {
	for i, name := range r.Services {
		program := "python3"
		if name == "redis" {
			program = "redis-server"
		}
		if _, err := exec.LookPath(program); err != nil {
			if why := fmt.Sprintf("service %s: %s is not installed", name, program); !slices.Contains(r.report.Absent, why) {
				r.report.Absent = append(r.report.Absent, why)
			}
			continue
		}
		if err := r.service(name, i == 0); err != nil {
			return err
		}
		if name == "redis" {
			if err := r.served(); err != nil {
				return err
			}
		}
	}
	if len(r.report.Rows) == 0 {
		return fmt.Errorf("nothing could be measured: install python3 or redis-server")
	}
	return nil
}

// service measures one adopted service. The first one also takes part in what does not depend on its size.
func (r *run) service(name string, first bool) (err error) {
	r.Progress(fmt.Sprintf("service %s, engine %s", name, r.engine.Name()))
	s, err := startSubject(r.ctx, r.dir, name, r.engine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	steps := []func(*subject) error{r.switches, r.checkpoints, r.restores, r.firsts}
	if s.pages >= writtenPages {
		steps = append(steps, r.written)
	}
	if s.sized && (name == "16" || first && !slices.Contains(r.Services, "16")) {
		steps = append(steps, r.taxes)
	}
	if first {
		steps = append(steps, r.crowds)
	}
	for _, step := range steps {
		if err := step(s); err != nil {
			return fmt.Errorf("service %s: %w", s.name, err)
		}
	}
	if r.engine.Name() == fork.New().Name() && (!r.Quick || first || name == "redis") {
		if err := r.peers(s, name); err != nil {
			return fmt.Errorf("service %s: CRIU: %w", s.name, err)
		}
	}
	return nil
}

func (r *run) add(row Row) {
	if r.engine != nil {
		row.Engine = r.engine.Name()
	}
	r.report.Rows = append(r.report.Rows, row)
}

// repeat calls f at least least times and at most n times, and stops in between once the budget is spent. Garbage is
// not collected meanwhile.
func (r *run) repeat(least, n int, f func() error) error {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	end := time.Now().Add(r.budget)
	for i := range n {
		if i >= least && time.Now().After(end) {
			return nil
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// place moves the client and the instances of apps, with what works for the engine in them.
func (r *run) place(cpu string, apps ...*app) error {
	for _, a := range apps {
		if err := a.shown(func() error { return r.cpus.process(cpu, a.in.PID()) }); err != nil {
			return err
		}
		if in, ok := a.in.(engine.Anchored); ok {
			if err := r.cpus.process(cpu, in.Anchor()); err != nil {
				return err
			}
		}
	}
	return r.cpus.self(cpu)
}

// names of rows, in the order of the report.
const (
	rowSwitch  = "switch t_R"
	rowPause   = "pause t_C"
	rowTax     = "COW tax"
	rowGet     = "GET"
	rowGetBox  = "GET, in the container"
	rowGetTurn = "GET, switched"
	rowVisit   = "connect, GET, close"
	rowTurn    = "turn"
	rowDormant = "dormant instance"
	rowUnique  = "dormant, unique"
	rowRestore = "restore"
	rowSpare   = "restore, spare"
	rowFirst   = "new app"
	rowReady   = "new app, spare"
	rowWritten = "pause t_C, 13 MiB written"
	rowDump    = "CRIU dump"
	rowFrozen  = "CRIU dump, stopped"
	rowDumpEnd = "CRIU dump, it ends"
	rowUndump  = "CRIU restore"
	rowSwap    = "swap in the kernel"
	rowSwapMM  = "of it the memory"
	rowKernel  = "activate in the kernel"
	rowNull    = "null syscall"
	rowPipe    = "pipe, one way"

	rowBinderDirect = "round trip, direct"
	rowBinder       = "round trip"
	rowBinderCrowd  = "interval"

	// what rows about direct connections have behind their name
	handedOver = ", handover"

	// what rows of Binder have behind their name
	brokered = ", broker"
	switched = ", switch"
)

func rank(name string) int {
	return slices.Index([]string{
		rowNull, rowPipe, rowSwitch, rowSwap, rowSwapMM, rowKernel, rowPause, rowWritten, rowDump, rowFrozen, rowDumpEnd, rowTax, rowRestore, rowSpare, rowUndump, rowFirst, rowReady, rowGet, rowGetBox, rowGetTurn, rowVisit, rowTurn, rowDormant, rowUnique,
	}, strings.TrimSuffix(name, handedOver))
}

func (r *run) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }
