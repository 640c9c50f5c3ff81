package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/runtime/engine/kmod"
)

// What the poster reports of the transactions of a phone: their greatest rate, and the shortest time between two.
const (
	posterRate     = 221  // Hz
	posterShortest = 1070 // µs
)

// The targets.
const (
	targetGated    = 1.10 // of a direct call
	targetSwitched = 2.5  // of a direct call
	targetRate     = 1    // of the poster's mean interval
)

// firstLoadUID is the uid of the first app.
const firstLoadUID = 20001

// RunBinder measures calls through Binder: direct, through the gate, with a change of app for each, and how many a second
// when many apps call at once. It takes some seconds for each, and needs root, binderfs and corsa.ko with its Binder gate.
func RunBinder(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Apps == 0 {
		o.Apps = 128
	}
	o.complete()
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring takes over processes as the monitor does: run it as root")
	}
	eng := kmod.New()
	if err := binderAvailable(eng); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &run{Options: o, ctx: ctx, engine: eng, report: &Report{Quick: false, Wide: o.Apps}}
	began := time.Now()
	r.report.Began = began.Format(time.RFC3339)
	if r.report.Host, err = host(); err != nil {
		return nil, err
	}
	r.report.Method = binderMethods(r.report.Host.Model)
	if r.cpus, err = newAffinity(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if r.dir, err = os.MkdirTemp("", "corsa-measure-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := os.Chmod(r.dir, 0o711); err != nil { // for clients, who are not root
		return nil, err
	}
	for _, cpu := range []string{PinnedCPU, AnyCPU} {
		if err := r.binderOn(cpu); err != nil {
			return nil, fmt.Errorf("binder, %s CPU: %w", cpu, err)
		}
	}
	r.report.Took = time.Since(began).Seconds()
	return r.report, nil
}

func binderAvailable(e any) error {
	b, ok := e.(interface{ BinderAvailable() error })
	if !ok {
		return errors.New("the engine has no Binder gate")
	}
	return b.BinderAvailable()
}

func binderMethods(model string) []string {
	list := []string{
		"All times are in µs, from the monotonic clock. Service and clients are programs in Go on corsa's own Binder package; each app is a " +
			"process with a uid of its own. A call sends 64 bytes and gets them back; the service has four threads for it, and those of Go.",
		"round trip: calls one after the other by one app, direct to a service without corsa and through the gate, in turns.",
		"round trip, switch: two apps call in turns, one call each, so that every call needs the other instance. Against a direct call made " +
			"in the same way: one, when told to, by a client that has waited.",
		"interval: between the ends of two calls, when so many apps call as fast as they can. Against the mean interval of the poster's 221 Hz; its " +
			"shortest is 1070 µs. busiest/least: calls of the app with the most over those of the one with the fewest.",
		"CPU \"one\": clients and services pinned to the same CPU; \"any\": no affinity.",
	}
	if strings.Contains(model, "TCG") {
		list = append(list, "This machine is emulated ("+model+"): times are those of the emulation, many times longer than a processor's, and not evenly so. "+
			"Only ratios within one run mean anything, and the rates say nothing of what a processor reaches.")
	}
	return list
}

// binderOn measures with everybody on the same CPU, or anywhere.
func (r *run) binderOn(cpu string) (err error) {
	if err := r.cpus.self(cpu); err != nil {
		return err
	}
	direct, stop, err := r.directEcho()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	gated, end, err := r.gatedEcho()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	r.Progress(fmt.Sprintf("binder: round trips, %s CPU", cpu))
	if err := r.roundTrips(cpu, direct, gated); err != nil {
		return err
	}
	for _, apps := range []int{2, 16, 128} {
		if apps > r.Apps {
			break
		}
		r.Progress(fmt.Sprintf("binder: %d apps at once, %s CPU", apps, cpu))
		if err := r.crowdOf(apps, cpu, gated); err != nil {
			return fmt.Errorf("%d apps: %w", apps, err)
		}
	}
	return nil
}

// directEcho starts a service without corsa, on a binderfs of its own.
func (r *run) directEcho() (device string, stop func() error, err error) {
	dir := r.path("direct")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	fs, err := binderfs.Mount(dir, binderfs.Options{})
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	unmount := func() error { return errors.Join(fs.Unmount(), os.Remove(dir)) }
	d, err := fs.AddDevice("binder")
	if err == nil {
		err = fs.Chmod("binder", 0o666)
	}
	if err != nil {
		return "", nil, errors.Join(err, unmount())
	}
	cmd := exec.Command(r.Corsa, "binder", "echo", d.Path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, unmount())
	}
	stop = func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return unmount()
	}
	if err := awaitEcho(r.ctx, d.Path); err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return d.Path, stop, nil
}

func awaitEcho(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := binder.Open(device, binder.Options{})
	if err != nil {
		return err
	}
	for err = conn.Ping(ctx); errors.Is(err, binder.ErrDead) && ctx.Err() == nil; err = conn.Ping(ctx) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		err = fmt.Errorf("the echo service does not answer: %w", err)
	}
	return errors.Join(err, conn.Close())
}

// gatedEcho starts the same service behind corsa.
func (r *run) gatedEcho() (device string, stop func() error, err error) {
	root, id, publish := r.path("root"), fmt.Sprintf("measure-%d", os.Getpid()), r.path("gated")
	stop = func() error { return errors.Join(r.corsa(root, "delete", "--force", id), os.RemoveAll(root)) }
	err = r.corsa(root, "serve", "--detach", "--id", id, "--gate", "binder", "--binder-devices", "binder", "--binder-publish", publish,
		"--", r.Corsa, "binder", "echo", "/dev/binder")
	if err != nil {
		return "", nil, err
	}
	return publish + "/binder", stop, nil
}

// load is a client of a measurement.
type load struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	answers *json.Decoder
	in      io.Closer
}

func (r *run) startLoad(device string, uid int) (*load, error) {
	cmd := exec.Command(r.Corsa, "binder", "load", device, strconv.Itoa(uid))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &load{cmd, json.NewEncoder(in), json.NewDecoder(out), in}, nil
}

func (l *load) stop() {
	_ = l.in.Close()
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait() // killed, or done
}

func (l *load) order(o loadOrder) error { return l.orders.Encode(o) }

func (l *load) answer() (calls []loadCall, err error) {
	if err := l.answers.Decode(&calls); err != nil {
		return nil, fmt.Errorf("a client has failed: %w", err)
	}
	return calls, nil
}

// calls has n calls made and adds their durations to times.
func (l *load) calls(n int, times *[]time.Duration) error {
	if err := l.order(loadOrder{Calls: n}); err != nil {
		return err
	}
	calls, err := l.answer()
	for _, c := range calls {
		*times = append(*times, time.Duration(c[1]-c[0]))
	}
	return err
}

func (r *run) roundTrips(cpu, direct, gated string) error {
	var loads [3]*load
	for i, device := range []string{direct, gated, gated} {
		l, err := r.startLoad(device, firstLoadUID+i)
		if err != nil {
			return err
		}
		defer l.stop()
		loads[i] = l
		if err := l.calls(50, new([]time.Duration)); err != nil { // warm
			return err
		}
	}
	var row, one, alone, turns []time.Duration // direct: in a row, and one at a time; then through the gate
	d, a, b := loads[0], loads[1], loads[2]
	err := r.repeat(10, 200, func() error {
		if err := d.calls(50, &row); err != nil {
			return err
		}
		if err := a.calls(1, new([]time.Duration)); err != nil { // it is the active one then
			return err
		}
		if err := a.calls(50, &alone); err != nil {
			return err
		}
		for range 10 {
			for _, x := range []struct {
				l  *load
				to *[]time.Duration
			}{{d, &one}, {b, &turns}, {d, &one}, {a, &turns}} {
				if err := x.l.calls(1, x.to); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.add(binderRow(rowBinder, cpu, describe(alone), "direct call", describe(row), targetGated))
	r.add(binderRow(rowBinderSwitch, cpu, describe(turns), "direct call, one", describe(one), targetSwitched))
	return nil
}

// binderRow compares gated calls with direct ones. Where others use the machine the quietest moments tell most.
func binderRow(name, cpu string, gated Dist, against string, direct Dist, target float64) Row {
	row := Row{Name: name, Service: "echo", CPU: cpu, Value: gated, Note: fmt.Sprintf("of the minima: %.2f×", gated.Min/direct.Min)}
	return row.ratio(against, direct, target)
}

// crowdOf has so many apps call at once.
func (r *run) crowdOf(apps int, cpu, device string) error {
	var loads []*load
	defer func() {
		for _, l := range loads {
			l.stop()
		}
	}()
	for i := range apps {
		l, err := r.startLoad(device, firstLoadUID+i)
		if err != nil {
			return err
		}
		loads = append(loads, l)
		if err := l.calls(2, new([]time.Duration)); err != nil {
			return err
		}
	}
	calls := make([][]loadCall, apps)
	errs := make([]error, apps)
	var all sync.WaitGroup
	for i, l := range loads {
		all.Add(1)
		go func() {
			defer all.Done()
			if errs[i] = l.order(loadOrder{For: r.budget}); errs[i] == nil {
				calls[i], errs[i] = l.answer()
			}
		}()
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.add(crowdRow(apps, cpu, calls))
	return nil
}

// ended is a call's end and whose it was.
type ended struct {
	at  int64
	app int
}

func crowdRow(apps int, cpu string, calls [][]loadCall) Row {
	var ends []ended
	least, most := len(calls[0]), 0
	for app, list := range calls {
		least, most = min(least, len(list)), max(most, len(list))
		for _, c := range list {
			ends = append(ends, ended{c[1], app})
		}
	}
	slices.SortFunc(ends, func(a, b ended) int { return int(a.at - b.at) })
	var intervals []time.Duration
	changes := 0
	for i := 1; i < len(ends); i++ {
		intervals = append(intervals, time.Duration(ends[i].at-ends[i-1].at))
		if ends[i].app != ends[i-1].app {
			changes++
		}
	}
	took := time.Duration(ends[len(ends)-1].at - ends[0].at)
	mean := us(took) / float64(len(intervals))
	row := Row{
		Name: rowBinderCrowd, Service: fmt.Sprintf("%d apps", apps), CPU: cpu, Value: describe(intervals),
		Note: fmt.Sprintf("%.0f calls/s, %.0f%% by another app than the one before; busiest/least %.2f",
			float64(len(intervals))/took.Seconds(), 100*float64(changes)/float64(len(intervals)), float64(most)/float64(max(least, 1))),
	}
	row.Baseline = &Baseline{"poster's mean", Dist{P50: 1e6 / posterRate, Min: posterShortest, Unit: "µs"}}
	row.Relation, row.Result = "ratio", mean/row.Baseline.Value.P50
	return row.aim(targetRate, row.Result)
}
