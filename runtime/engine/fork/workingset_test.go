package fork

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// faults is how many page faults the process has taken for which nothing had to be read.
func faults(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	n, err := strconv.Atoi(strings.Fields(rest)[7])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An instance that was warmed takes hardly a fault at its first request, and is otherwise what it would have been.
func TestWarmInstancesTakeFewFaults(t *testing.T) {
	s := startEvaluator(t)
	ctx := context.Background()
	first := func(warm bool) (*evaluated, int) {
		in, plumbed, err := s.Branch(ctx, s.base, nil)
		if err != nil {
			t.Fatal(err)
		}
		if warm {
			if err := s.Warm(ctx, in); err != nil {
				t.Fatal(err)
			}
		}
		if !in.Dormant() {
			t.Error("it was activated")
		}
		before := faults(t, in.PID())
		e := evaluate(t, in, plumbed)
		e.must("4950", "sum(range(100))")
		return e, faults(t, in.PID()) - before
	}
	cold, n := first(true) // of nothing that is known
	if n < 50 {
		t.Skipf("%d faults are too few to tell", n)
	}
	pm, err := openPagemap(cold.in.a.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer pm.close()
	if err := s.Learn(cold.in); err != nil {
		t.Fatal(err)
	}
	if !pm.canScan(t) {
		t.Skip("PAGEMAP_SCAN: this kernel cannot tell what is in use (Linux 6.7)")
	}
	_, warm := first(true)
	_, again := first(false)
	t.Logf("%d faults, %d warm, %d cold", n, warm, again)
	if warm > n/4 || again < n/2 {
		t.Errorf("%d faults, then %d of a warm instance and %d of a cold one", n, warm, again)
	}
	if err := cold.in.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Learn(cold.in); err == nil {
		t.Error("something was learnt of an instance that is no more")
	}
}

func (p *pagemap) canScan(t *testing.T) bool {
	t.Helper()
	if _, _, err := p.used(); err != nil {
		t.Fatal(err)
	}
	return p.scans
}

// What most instances wrote to lately is what the next one is expected to.
func TestExpectedIsWhatMostUsed(t *testing.T) {
	const a, b, c, own = 0x10000, 0x11000, 0x20000, 0x90000
	var w workingSet
	if written, read := w.expected(); len(written)+len(read) != 0 {
		t.Errorf("%v, %v of nothing", written, read)
	}
	for i := range uint64(2 * warmRecent) {
		w.note([]uint64{a, b, c, own + i*pageSize}, []span{{a, c}})
	}
	want := []span{{a, b + pageSize}, {c, c + pageSize}}
	if written, read := w.expected(); !slices.Equal(written, want) || len(read) != 1 {
		t.Errorf("%x, %x", written, read)
	}
	for range 2 * warmRecent {
		w.note([]uint64{c}, nil)
	}
	if written, read := w.expected(); !slices.Equal(written, want[1:]) || len(read) != 1 {
		t.Errorf("then %x, %x", written, read)
	}
	many := make([]uint64, 10*warmPages)
	for i := range many {
		many[i] = uint64(i) * 2 * pageSize
	}
	for range 2 * warmRecent {
		w.note(many, nil)
	}
	if written, _ := w.expected(); len(written) != warmSpans {
		t.Errorf("%d places of %d", len(written), len(many))
	}
}
