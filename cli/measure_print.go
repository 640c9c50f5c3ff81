package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"corsa.dev/corsa/runtime/measure"
)

// wide is the width of the method's text, in characters.
const wide = 118

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
	for _, m := range r.Method {
		writeWrapped(&b, "- ", wide, m)
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
	name, note := r.Name+", "+r.Value.Unit, r.Note
	if r.Faster > 0 {
		if note != "" {
			note += "; "
		}
		note += number(r.Faster) + "× faster than CRIU"
	}
	return []string{
		name, orDash(r.Engine), orDash(r.Service), r.CPU, number(r.Value.P50), number(r.Value.P99), number(r.Value.Min), strconv.Itoa(r.Value.N),
		against, base, result, target, note,
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

// writeWrapped writes text in lines of at most width characters, the first of which begins with mark and the others with
// as many blanks.
func writeWrapped(b *strings.Builder, mark string, width int, text string) {
	indent := strings.Repeat(" ", len(mark))
	line := mark
	for _, word := range strings.Fields(text) {
		if line != mark && line != indent {
			if len([]rune(line))+1+len([]rune(word)) > width {
				b.WriteString(line + "\n")
				line = indent
			} else {
				line += " "
			}
		}
		line += word
	}
	b.WriteString(line + "\n")
}
