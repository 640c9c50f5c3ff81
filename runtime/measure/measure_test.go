package measure

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/criu"
)

func TestParseService(t *testing.T) {
	for in, want := range map[string]string{"redis": "redis", "threads": "threads", "1": "1", "016": "16", "65536": "65536", "huge=512": "huge=512"} {
		if got, err := ParseService(in); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "65537", "huge=0", "huge", "nginx", "1M"} {
		if got, err := ParseService(in); !errors.Is(err, ErrBadService) {
			t.Errorf("%q: %q, %v, want ErrBadService", in, got, err)
		}
	}
}

func TestDistributions(t *testing.T) {
	var s []time.Duration
	for i := range 200 {
		s = append(s, time.Duration(200-i)*time.Microsecond)
	}
	d := describe(s)
	if want := (Dist{P50: 101, P99: 199, Min: 1, N: 200, Unit: "µs"}); d != want {
		t.Errorf("described as %+v, want %+v", d, want)
	}
	e := d.minus(Dist{P50: 1, P99: 1000, Min: 0.5, N: 100, Unit: "µs"})
	if want := (Dist{P50: 100, P99: 198, Min: 0.5, N: 100, Unit: "µs"}); e != want {
		t.Errorf("difference is %+v, want %+v", e, want)
	}
	base := Dist{P50: 40, Unit: "µs"}
	for target, met := range map[float64]bool{2.5: true, 2.4: false, 0: false} {
		if r := (Row{Value: e}).ratio("base", base, target); r.Result != 2.5 || r.Met != met {
			t.Errorf("ratio %v, target %v: met is %v", r.Result, target, r.Met)
		}
	}
	if r := (Row{Value: e}).excess("base", base, 60); r.Result != 60 || !r.Met {
		t.Errorf("excess %v, met %v", r.Result, r.Met)
	}
}

func TestCrowdSizes(t *testing.T) {
	for most, want := range map[int][]int{2: {2}, 5: {2, 5}, 16: {2, 16}, 1000: {2, 16, 128, 1000}, 2000: {2, 16, 128, 1000, 2000}} {
		if got := crowdSizes(most); !slices.Equal(got, want) {
			t.Errorf("up to %d: %v, want %v", most, got, want)
		}
	}
}

// emptyAfter has the test fail if something is left that has to do with its temporary directory.
func emptyAfter(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the engine traces services")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Error(err)
		}
		for _, f := range lines {
			// A process that has gone meanwhile is none that was left.
			if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(dir)) {
				t.Errorf("%s still runs %q", filepath.Dir(f), bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
			}
		}
	})
}

func TestRun(t *testing.T) {
	emptyAfter(t)
	var steps []string
	r, err := Run(t.Context(), Options{
		Services: []string{"1", "threads"}, Apps: 3, budget: time.Millisecond,
		Progress: func(s string) { steps = append(steps, s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	for _, row := range r.Rows {
		have[row.Name+", "+row.Service]++
		if row.Value.N < 2 || row.Value.Unit == "" {
			t.Errorf("%s of %s: %+v", row.Name, row.Service, row.Value)
		}
		// Differences may be anything; what they were made of takes time.
		for name, part := range row.Parts {
			if part.P50 <= 0 || part.P99 < part.P50 || part.Min > part.P50 {
				t.Errorf("%s of %s: %s is %+v", row.Name, row.Service, name, part)
			}
		}
		if b := row.Baseline; b != nil && b.Value.P50 <= 0 {
			t.Errorf("%s of %s: %s is %+v", row.Name, row.Service, b.Name, b.Value)
		}
	}
	for row, n := range map[string]int{
		"switch t_R, 1 MiB": 2, "pause t_C, 1 MiB": 2, "COW tax, 1 MiB": 3, "restore, 1 MiB": 1, "turn, 1 MiB": 2,
		"dormant, unique, 1 MiB": 1, "switch t_R, threads": 2, "pause t_C, threads": 2, "restore, threads": 1,
	} {
		if have[row] != n {
			t.Errorf("%d rows of %q, want %d", have[row], row, n)
		}
	}
	if !slices.IsSortedFunc(r.Rows, func(a, b Row) int { return rank(a.Name) - rank(b.Name) }) {
		t.Error("rows of one quantity are apart")
	}
	if len(steps) < 10 || len(r.Method) == 0 || r.Took <= 0 {
		t.Errorf("steps %q, method %q, took %v", steps, r.Method, r.Took)
	}
}

// A run that is given up leaves nothing behind, at whichever step that is.
func TestRunGivenUp(t *testing.T) {
	for _, at := range []string{"service 1", "switch", "checkpoint", "restore", "COW tax, 16", "2 apps"} {
		t.Run(at, func(t *testing.T) {
			emptyAfter(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := Run(ctx, Options{
				Services: []string{"1"}, Apps: 2, Quick: true, budget: time.Millisecond,
				Progress: func(s string) {
					if strings.Contains(s, at) {
						cancel()
					}
				},
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// fakeCRIU says its version, and nothing else.
func fakeCRIU(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\n[ \"$1\" = --version ] && echo Version: 4.2.1\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCRIUIsBeside(t *testing.T) {
	program, err := criu.Find("")
	if err != nil {
		t.Skip(err)
	}
	emptyAfter(t)
	r, err := Run(t.Context(), Options{Services: []string{"1"}, Apps: 2, Quick: true, CRIU: program.Path, budget: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]Row{}
	for _, row := range r.Rows {
		rows[row.Name] = row
	}
	for _, name := range []string{rowDump, rowFrozen, rowDumpEnd, rowUndump} {
		if row := rows[name]; row.Value.N != dumpRounds || row.Value.Min <= 0 || row.Engine != "" {
			t.Errorf("%s is %+v; absent: %q", name, row, r.Absent)
		}
	}
	if whole, stopped := rows[rowDump].Value, rows[rowFrozen].Value; stopped.Min >= whole.P99 {
		t.Errorf("stopped for %+v in a dump of %+v", stopped, whole)
	}
	for name, than := range map[string]string{rowPause: rowFrozen, rowRestore: rowUndump, rowSpare: rowUndump} {
		if got, want := rows[name].Faster, rows[than].Value.P50/rows[name].Value.P50; got != want {
			t.Errorf("%s is %v times faster, want %v", name, got, want)
		}
	}
}

// A CRIU that cannot do it is said to, and one that is named and missing is an error at once.
func TestCRIUThatIsOfNoUse(t *testing.T) {
	path := fakeCRIU(t)
	emptyAfter(t)
	r, err := Run(t.Context(), Options{Services: []string{"1"}, Apps: 2, Quick: true, CRIU: path, budget: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Absent) != 1 || !strings.HasPrefix(r.Absent[0], "CRIU, 1 MiB: "+criu.ErrCRIU.Error()) {
		t.Errorf("absent: %q", r.Absent)
	}
	for _, row := range r.Rows {
		if row.Faster != 0 || row.Name == rowDump {
			t.Errorf("row %+v", row)
		}
	}
	_, err = Run(t.Context(), Options{CRIU: path + "-none", Progress: func(s string) { t.Errorf("it has begun: %s", s) }})
	if !errors.Is(err, criu.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
