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
	"time"
)

// Options say what to measure.
type Options struct {
	Services []string      // "redis", "threads" or numbers of MiB; none: all that a run has
	Apps     int           // most apps at once, at least 2; 0: 1000, or 16 in a quick run
	Quick    bool          // a run of some seconds
	Corsa    string        // path of the corsa program, for what goes through `corsa serve`
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
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > largestService {
		return "", fmt.Errorf("%q is %w: write redis, threads or a number of MiB from 1 to %d", s, ErrBadService, largestService)
	}
	return strconv.Itoa(n), nil
}

func (o *Options) complete() {
	budget := 6 * time.Second
	services, apps := []string{"1", "16", "128", "512", "threads", "redis"}, 1000
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
}

// Run measures until done. What it started is gone when it returns. It takes seconds to minutes, and needs root.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o.complete()
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
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if r.dir, err = os.MkdirTemp("", "corsa-measure-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := r.all(); err != nil {
		return nil, err
	}
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
			r.report.Absent = append(r.report.Absent, fmt.Sprintf("service %s: %s is not installed", name, program))
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
	// Readers look for a quantity first and for a service then.
	slices.SortStableFunc(r.report.Rows, func(a, b Row) int { return rank(a.Name) - rank(b.Name) })
	return nil
}

// service measures one adopted service. The first one also takes part in what does not depend on its size.
func (r *run) service(name string, first bool) (err error) {
	r.Progress("service " + name)
	s, err := startSubject(r.ctx, r.dir, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	steps := []func(*subject) error{r.switches, r.checkpoints, r.restores}
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
	return nil
}

func (r *run) add(row Row) { r.report.Rows = append(r.report.Rows, row) }

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

// place moves the client and the instances of apps.
func (r *run) place(cpu string, apps ...*app) error {
	for _, a := range apps {
		if err := r.cpus.process(cpu, a.in.PID()); err != nil {
			return err
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
	rowTurn    = "turn"
	rowDormant = "dormant instance"
	rowUnique  = "dormant, unique"
	rowRestore = "restore"
)

func rank(name string) int {
	return slices.Index([]string{rowSwitch, rowPause, rowTax, rowRestore, rowGet, rowTurn, rowDormant, rowUnique}, name)
}

func (r *run) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }
