package broker_test

import (
	"slices"
	"strconv"
	"testing"
)

// A round trip through the broker is two of Binder's, and a few more for a switch: the test tells how many, and fails only if
// something is out of all proportion.
func TestMeasure(t *testing.T) {
	const rounds, calls = 5, 200
	device := newDevice(t)
	startRole(t, "manager", device)
	startRole(t, "service", device)
	direct := startApp(t, device, 2001)
	direct.want("ok", "find")
	w := newWorld(t, nil)
	one, two := w.app(2001), w.app(2002)
	median := func(answers ...string) float64 {
		var sum float64
		for _, s := range answers {
			n, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(s)
			}
			sum += n
		}
		return sum / float64(len(answers))
	}
	var without, same, switched []float64
	var share float64
	for range rounds {
		d := median(direct.ask("bench", calls))
		same = append(same, median(one.ask("bench", calls))/d)
		before := w.switches()
		first, second := one.begin("bench", calls), two.begin("bench", calls)
		// Both wait for each other: what one call takes is twice what one of them costs.
		switched = append(switched, median(first(), second())/2/d)
		share += float64(w.switches()-before) / (2 * calls) / rounds
		without = append(without, d)
	}
	for _, list := range [][]float64{without, same, switched} {
		slices.Sort(list)
	}
	t.Logf("direct 1 (%.0f µs here); through the broker %.2f; with a switch on %.0f %% of the calls %.2f", without[rounds/2]/1000,
		same[rounds/2], 100*share, switched[rounds/2])
	if same[rounds/2] > 20 || switched[rounds/2] > 200 {
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
