package cli

import (
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/measure"
)

func TestQuickReportIsNarrow(t *testing.T) {
	long := strings.Repeat("model ", 30)
	r := &measure.Report{Quick: true, Host: measure.Host{Kernel: "Linux", Model: long}, Absent: []string{"redis: " + long}}
	r.Rows = append(r.Rows, measure.Row{Name: "pipe, one way", CPU: measure.PinnedCPU, Value: measure.Dist{P50: 2.5, Unit: "µs"}})
	for _, s := range []string{"1 MiB", "128 MiB", "threads", "redis"} {
		for _, e := range []string{"fork", "kmod"} {
			r.Rows = append(r.Rows,
				measure.Row{
					Name: "switch t_R", Engine: e, Service: s, CPU: measure.PinnedCPU, Relation: "ratio", Result: 12.34,
					Value: measure.Dist{P50: 99.9, Unit: "µs"},
				},
				measure.Row{
					Name: "pause t_C", Engine: e, Service: s, CPU: measure.AnyCPU, Relation: "excess", Result: -4321,
					Value: measure.Dist{P50: 12345, Unit: "µs"}, Note: "2 pages: 1 − 2",
				})
		}
	}
	var b strings.Builder
	if err := printQuick(&b, r); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
	for _, want := range []string{
		"pipe, one way                      2.5\n", " 99.9 (12.3×) ", "pause t_C, 2 pages, kmod", " 12345 (-4321) ", "Not measured: redis:",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("there is no %q in\n%s", want, b.String())
		}
	}
}
