package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// How long a crowd calls: until there should be enough calls for a p99, each of them with a switch, and not for ever.
const (
	crowdCalls   = 1100
	crowdQuick   = 100
	crowdLongest = 60 * time.Second
)

// crowdTime is how long apps call at once where a call with a switch takes that long.
func (r *run) crowdTime(switched Dist) time.Duration {
	calls := crowdCalls
	if r.Quick {
		calls = crowdQuick
	}
	needed := time.Duration(float64(calls) * switched.P50 * float64(time.Microsecond))
	return max(r.budget, min(needed, crowdLongest))
}

// crowdOf has so many apps call at once, for so long. direct is what a direct call takes.
func (r *run) crowdOf(apps int, cpu string, e *gatedEcho, long time.Duration, direct Dist) error {
	var loads []*load
	defer func() {
		for _, l := range loads {
			l.stop()
		}
	}()
	for i := range apps {
		l, err := r.startLoad(e.echo, firstLoadUID+i)
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
			if errs[i] = l.order(loadOrder{For: long}); errs[i] == nil {
				calls[i], errs[i] = l.answer()
			}
		}()
	}
	all.Wait()
	if r.ctx.Err() != nil { // which has ended them
		return context.Cause(r.ctx)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.add(e.gate.row(crowdRow(apps, cpu, calls, direct)))
	return nil
}

// ended is a call's end and whose it was.
type ended struct {
	at  int64
	app int
}

func crowdRow(apps int, cpu string, calls [][]loadCall, direct Dist) Row {
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
		Note: fmt.Sprintf("%.0f calls/s, mean %.2f× a direct call; %.0f%% by another app than the one before; busiest/least %.2f",
			float64(len(intervals))/took.Seconds(), mean/direct.P50, 100*float64(changes)/float64(len(intervals)), float64(most)/float64(max(least, 1))),
	}
	row.Baseline = &Baseline{"poster's mean", Dist{P50: 1e6 / posterRate, Min: posterShortest, Unit: "µs"}}
	row.Relation, row.Result = "ratio", mean/row.Baseline.Value.P50
	return row.aim(targetRate, row.Result)
}
