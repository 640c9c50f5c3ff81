package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"corsa.dev/corsa/runtime/measure"
)

// printMeasured writes a report for people: the host, the table, and how it was made.
func printMeasured(w io.Writer, r *measure.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs, %s, huge pages: %s, load %s; %.0f s\n\n",
		r.Host.Kernel, r.Host.CPUs, r.Host.Model, r.Host.HugePages, r.Host.Load, r.Took)
	tw := tabwriter.NewWriter(&b, 4, 1, 2, ' ', 0)
	fmt.Fprintln(tw, "MEASURE\tENGINE\tSERVICE\tCPU\tP50\tP99\tMIN\tN\tAGAINST\tP50\tRESULT\tTARGET\tNOTE")
	for _, row := range r.Rows {
		fmt.Fprintln(tw, strings.Join(measuredRow(row), "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	b.WriteByte('\n')
	for _, a := range r.Absent {
		fmt.Fprintf(&b, "Not measured: %s\n", a)
	}
	if !r.Quick {
		for _, m := range r.Method {
			writeWrapped(&b, m)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func measuredRow(r measure.Row) []string {
	against, base, result, target := "-", "-", "-", "-"
	if r.Baseline != nil {
		against, base = r.Baseline.Name, number(r.Baseline.Value.P50)
	}
	bound := func(v float64) string { return number(v) }
	switch r.Relation {
	case "ratio":
		bound = func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + "×" }
	case "excess":
		bound = func(v float64) string { return fmt.Sprintf("%+.0f", v) }
	}
	if r.Relation != "" {
		result = bound(r.Result)
	}
	if r.Target > 0 {
		verdict := "missed"
		if r.Met {
			verdict = "met"
		}
		target = "≤ " + bound(r.Target) + " " + verdict
	}
	name := r.Name + ", " + r.Value.Unit
	return []string{
		name, orDash(r.Engine), orDash(r.Service), r.CPU, number(r.Value.P50), number(r.Value.P99), number(r.Value.Min), strconv.Itoa(r.Value.N),
		against, base, result, target, r.Note,
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// number writes three digits or more.
func number(v float64) string {
	digits := 0
	if v < 100 && v > -100 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// writeWrapped writes one item of a list in lines of at most 120 characters.
func writeWrapped(b *strings.Builder, text string) {
	const width = 118
	line := "-"
	for _, word := range strings.Fields(text) {
		if len([]rune(line))+1+len([]rune(word)) > width {
			b.WriteString(line + "\n")
			line = " "
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}
