package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"corsa.dev/corsa/binderfs"
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

// binderGate is a way to stand between a Binder service and its callers.
type binderGate struct {
	engine          string  // as for `corsa serve`
	broker          bool    // it is the monitor that passes calls on, and not the kernel that holds them
	gated, switched float64 // targets, as multiples of a direct call; 0: none
	crowds          []int
}

// Instances behind a broker are processes, of which 128 would take longer to make than all else that is measured.
var (
	kernelGate = binderGate{engine: "kmod", gated: targetGated, switched: targetSwitched, crowds: []int{2, 16, 128}}
	brokerGate = binderGate{engine: "fork", broker: true, crowds: []int{2, 16}}
)

// row names a row, and the engine, after the gate.
func (g binderGate) row(row Row) Row {
	row.Engine = g.engine
	if g.broker {
		row.Name += brokered
	}
	return row
}

// binderGates are those that were asked for, or else all that this host has; why says what it has not.
func binderGates(names []string) (gates []binderGate, why []string, err error) {
	if s := binderfs.Probe(); s.Offer == binderfs.OfferNone || s.Offer == binderfs.OfferNodes {
		return nil, nil, fmt.Errorf("%w: %s; way out: %s", binderfs.ErrUnsupported, s.Detail, s.WayOut)
	}
	for _, g := range []binderGate{kernelGate, brokerGate} {
		asked := slices.Contains(names, g.engine)
		if len(names) > 0 && !asked {
			continue
		}
		if !g.broker {
			if err := binderAvailable(kmod.New()); asked && err != nil {
				return nil, nil, err
			} else if err != nil {
				why = append(why, fmt.Sprintf("calls through the gate in the kernel: %v", err))
				continue
			}
		}
		gates = append(gates, g)
	}
	return gates, why, nil
}

func binderAvailable(e any) error {
	b, ok := e.(interface{ BinderAvailable() error })
	if !ok {
		return errors.New("the engine has no Binder gate")
	}
	return b.BinderAvailable()
}

// RunBinder measures calls through Binder: direct, through the gate in the kernel and through the broker, with a change of app
// for each, and how many a second when many apps call at once. It takes a minute or more, and needs root and binderfs. Without
// corsa.ko and its Binder gate the report says so, and has what can be had without.
func RunBinder(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Apps == 0 && !o.Quick {
		o.Apps = 128
	}
	o.complete()
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring takes over processes as the monitor does: run it as root")
	}
	gates, absent, err := binderGates(o.Engines)
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &run{Options: o, ctx: ctx, report: &Report{Quick: o.Quick, Wide: o.Apps, Absent: absent}}
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
		err := r.binderOn(cpu, gates)
		if err != nil && ctx.Err() != nil { // clients that end with it fail in their own ways
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if err != nil {
			return nil, fmt.Errorf("binder, %s CPU: %w", cpu, err)
		}
	}
	r.report.Took = time.Since(began).Seconds()
	return r.report, nil
}

func binderMethods(model string) []string {
	list := []string{
		"All times are in µs, from the monotonic clock. Service and clients are programs in Go on corsa's own Binder package; each app is a " +
			"process with a uid of its own. A call sends 64 bytes and gets them back; the service has four threads for it, and those of Go.",
		"round trip: calls one after the other by one app, direct to a service without corsa and through each gate, in turns.",
		"round trip, switch: two apps call in turns, one call each, so that every call needs the other instance; the note says how many " +
			"did, as the gate counts it. Against a direct call made in the same way: one, when told to, by a client that has waited.",
		"Engine kmod: the gate of corsa.ko; the service is the context manager, as the direct one is. \"broker\", engine fork: the monitor passes calls on; the service " +
			"adds a name, and clients look it up before the measurement. Instances are processes there, so that a switch parks one and wakes another.",
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
func (r *run) binderOn(cpu string, gates []binderGate) (err error) {
	if err := r.cpus.self(cpu); err != nil {
		return err
	}
	direct, stop, err := r.directEcho()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var gated []*gatedEcho
	for _, g := range gates {
		r.Progress(fmt.Sprintf("binder: the service behind engine %s, %s CPU", g.engine, cpu))
		e, startErr := r.startGated(g)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, e.stop(r)) }()
		gated = append(gated, e)
	}
	r.Progress(fmt.Sprintf("binder: round trips, %s CPU", cpu))
	row, turns, err := r.roundTrips(cpu, direct, gated)
	if err != nil {
		return err
	}
	for i, e := range gated {
		for _, apps := range e.gate.crowds {
			if apps > r.Apps {
				break
			}
			r.Progress(fmt.Sprintf("binder: %d apps at once, engine %s, %s CPU", apps, e.gate.engine, cpu))
			if err := r.crowdOf(apps, cpu, e, r.crowdTime(turns[i]), row); err != nil {
				return fmt.Errorf("engine %s, %d apps: %w", e.gate.engine, apps, err)
			}
		}
	}
	return nil
}
