package broker_test

import (
	"slices"
	"strconv"
	"testing"
)

// A round trip through the broker is two of Binder's, and a few more for a switch: the test tells how many, and fails only if
// something is out of all proportion.
func TestMeasure(t *testing.T) {
	const rounds, calls = 7, 100
	device := newDevice(t)
	startRole(t, "manager", device)
	startRole(t, "service", device)
	startRole(t, "relay", device)
	direct, relayed := startApp(t, device, 2001), startApp(t, device, 2001)
	direct.want("ok", "find")
	relayed.want("ok", "find", relayName)
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(text)
		}
		return n
	}
	var results [4][]float64 // direct, by a bare relay, through the broker, with switches
	var share float64
	for range rounds {
		d := number(direct.ask("bench", calls))
		before := w.switches()
		r := number(relayed.ask("bench", calls)) / d
		b := number(one.ask("bench", calls)) / d
		first, second := one.begin("bench", calls), two.begin("bench", calls)
		// Each waits for the other: what a call takes is what two of them cost.
		s := (number(first()) + number(second())) / 4 / d
		share += float64(w.switches()-before) / (2 * calls) / rounds
		for i, v := range []float64{d, r, b, s} {
			results[i] = append(results[i], v)
		}
	}
	var median [4]float64
	for i := range results {
		slices.Sort(results[i])
		median[i] = results[i][rounds/2]
	}
	t.Logf("direct 1 (%.0f µs here); by a bare relay %.2f; through the broker %.2f; with a switch on %.0f %% of the calls %.2f",
		median[0]/1000, median[1], median[2], 100*share, median[3])
	if median[2] > 10*median[1] || median[3] > 100*median[1] {
		t.Error("the broker is far too slow")
	}
}

func (w *world) switches() uint64 {
	var n uint64
	for _, s := range w.broker.Stats() {
		n += s.Switches
	}
	return n
}
