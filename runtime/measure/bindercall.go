package measure

import (
	"fmt"
	"time"
)

// How many calls a round has. Gates and the direct service take turns in each, since the machine's mood changes.
const (
	roundCalls = 50 // in a row
	roundTurns = 10 // of one call of each app
)

// caller measures one service: two apps behind a gate, or one that calls directly.
type caller struct {
	one, other   *load // other: only behind a gate
	alone, turns []time.Duration
	switches     uint64 // before it was measured
}

// startCaller starts the apps and has them call until nothing is new any more. The instance of one is active then.
func (r *run) startCaller(at echo, apps int) (*caller, error) {
	c := &caller{}
	for i, l := range []**load{&c.other, &c.one}[2-apps:] {
		var err error
		if *l, err = r.startLoad(at, firstLoadUID+i); err == nil {
			err = (*l).calls(roundCalls, new([]time.Duration))
		}
		if err != nil {
			c.stop()
			return nil, err
		}
	}
	return c, nil
}

func (c *caller) stop() {
	for _, l := range []*load{c.one, c.other} {
		if l != nil {
			l.stop()
		}
	}
}

// roundTrips measures direct calls and those through the gates. It returns what a direct call takes, and for each gate a
// call with a switch.
func (r *run) roundTrips(cpu string, at echo, gated []*gatedEcho) (row Dist, turns []Dist, err error) {
	direct, err := r.startCaller(at, 1)
	if err != nil {
		return Dist{}, nil, err
	}
	defer direct.stop()
	callers := make([]*caller, len(gated))
	for i, e := range gated {
		c, err := r.startCaller(e.echo, 2)
		if err != nil {
			return Dist{}, nil, fmt.Errorf("engine %s: %w", e.gate.engine, err)
		}
		defer c.stop()
		if c.switches, err = e.switches(r); err != nil {
			return Dist{}, nil, err
		}
		callers[i] = c
	}
	least := 50 // a thousand turns
	if r.Quick {
		least = 5
	}
	if err := r.repeat(least, 200, func() error { return round(direct, callers) }); err != nil {
		return Dist{}, nil, err
	}
	row, one := describe(direct.alone), describe(direct.turns)
	r.add(Row{Name: rowBinderDirect, Service: "echo", CPU: cpu, Value: row})
	r.add(Row{Name: rowBinderDirect + ", one", Service: "echo", CPU: cpu, Value: one})
	for i, e := range gated {
		c := callers[i]
		now, err := e.switches(r)
		if err != nil {
			return Dist{}, nil, err
		}
		turns = append(turns, describe(c.turns))
		r.add(e.gate.row(binderRow(rowBinder, cpu, describe(c.alone), "direct call", row, e.gate.gated)))
		x := e.gate.row(binderRow(rowBinder, cpu, turns[i], "direct call, one", one, e.gate.switched))
		x.Name += switched
		x.Note += fmt.Sprintf("; switches on %.0f%% of the calls", 100*float64(now-c.switches)/float64(len(c.turns)))
		r.add(x)
	}
	return row, turns, nil
}

// round has everybody call: many times in a row, and then in turns, of which the last is again that of those who begin.
func round(direct *caller, gated []*caller) error {
	if err := direct.one.calls(roundCalls, &direct.alone); err != nil {
		return err
	}
	for _, c := range gated {
		if err := c.one.calls(roundCalls, &c.alone); err != nil {
			return err
		}
	}
	for range roundTurns {
		if err := direct.one.calls(1, &direct.turns); err != nil {
			return err
		}
		for _, c := range gated {
			if err := c.other.calls(1, &c.turns); err != nil {
				return err
			}
		}
		if err := direct.one.calls(1, &direct.turns); err != nil {
			return err
		}
		for _, c := range gated {
			if err := c.one.calls(1, &c.turns); err != nil {
				return err
			}
		}
	}
	return nil
}

// binderRow compares gated calls with direct ones. Where others use the machine the quietest moments tell most.
func binderRow(name, cpu string, gated Dist, against string, direct Dist, target float64) Row {
	row := Row{Name: name, Service: "echo", CPU: cpu, Value: gated, Note: fmt.Sprintf("of the minima: %.2f×", gated.Min/direct.Min)}
	return row.ratio(against, direct, target)
}
