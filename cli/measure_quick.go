package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"corsa.dev/corsa/runtime/measure"
)

// narrow is the width of a quick report, in characters.
const narrow = 80

// printQuick writes the report of a quick run for people: one line for each quantity, one column for each service.
func printQuick(w io.Writer, r *measure.Report) error {
	var b strings.Builder
	writeWrapped(&b, "", narrow, fmt.Sprintf("%s, %d CPUs, %s, load %s. p50 in µs; in brackets against a pipe's ping-pong, fork() or a direct GET: "+
		"how many times it, or by how much more.", r.Host.Kernel, r.Host.CPUs, r.Host.Model, r.Host.Load))
	services, lines := pivot(r.Rows)
	label := 0
	for _, l := range lines {
		label = max(label, len([]rune(l.label)))
	}
	column := max(8, min(16, (narrow-label)/max(1, len(services))))
	fmt.Fprintf(&b, "%-*s", label, "")
	for _, s := range services {
		fmt.Fprintf(&b, "%*s", column, s)
	}
	b.WriteByte('\n')
	for _, l := range lines {
		fmt.Fprintf(&b, "%-*s", label, l.label)
		for _, s := range services {
			fmt.Fprintf(&b, "%*s", column, l.cells[s])
		}
		b.WriteByte('\n')
	}
	for _, a := range r.Absent {
		writeWrapped(&b, "", narrow, "Not measured: "+a)
	}
	_, err := io.WriteString(w, trimLines(b.String()))
	return err
}

// quickLine is one quantity. cells are by service.
type quickLine struct {
	label string
	cells map[string]string
}

// pivot makes a line of the rows that differ in nothing but the service, in the order of the first of them.
func pivot(rows []measure.Row) (services []string, lines []quickLine) {
	engines := map[string]bool{}
	for _, r := range rows {
		if r.Engine != "" {
			engines[r.Engine] = true
		}
		if !ofHost(r) && !slices.Contains(services, r.Service) {
			services = append(services, r.Service)
		}
	}
	for _, r := range rows {
		l := quickLabel(r, len(engines) > 1)
		i := slices.IndexFunc(lines, func(x quickLine) bool { return x.label == l })
		if i < 0 {
			i = len(lines)
			lines = append(lines, quickLine{l, map[string]string{}})
		}
		service := r.Service
		if ofHost(r) && len(services) > 0 {
			service = services[0]
		}
		lines[i].cells[service] = quickCell(r)
	}
	return services, lines
}

// ofHost reports whether r is a property of the machine and of no service.
func ofHost(r measure.Row) bool { return r.Service == "" || r.Service == "-" }

func quickLabel(r measure.Row, engine bool) string {
	l := r.Name
	if variant, _, ok := strings.Cut(r.Note, ": "); ok { // "16 pages: 176 − 16"
		l += ", " + variant
	}
	if r.Value.Unit != "µs" {
		l += ", " + r.Value.Unit
	}
	if r.CPU == measure.PinnedCPU && !ofHost(r) {
		l += ", pinned"
	}
	if engine && r.Engine != "" {
		l += ", " + r.Engine
	}
	return l
}

func quickCell(r measure.Row) string {
	cell := number(r.Value.P50)
	switch r.Relation {
	case "ratio":
		digits := 2
		if r.Result >= 10 {
			digits = 1
		}
		cell += fmt.Sprintf(" (%.*f×)", digits, r.Result)
	case "excess":
		cell += fmt.Sprintf(" (%+.0f)", r.Result)
	}
	return cell
}

// trimLines takes the blanks from the ends of lines.
func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
