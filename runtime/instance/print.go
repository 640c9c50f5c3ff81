package instance

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Print writes a history for people: newest first, a graph of what descends from what at the left, one line per
// checkpoint with id, age at now, trigger, sizes and names.
func (h History) Print(w io.Writer, now time.Time) error {
	rows := [][]string{{"", "CHECKPOINT", "AGE", "TRIGGER", "DIRTY", "UNIQUE", "NAMES"}}
	var lanes []ID // what each column of the graph leads down to
	nodes := slices.Concat([]Checkpoint{h.Base}, h.Checkpoints)
	slices.Reverse(nodes)
	for _, c := range nodes {
		at := slices.Index(lanes, c.ID)
		if at < 0 {
			at = len(lanes)
			lanes = append(lanes, c.ID)
		}
		for i := len(lanes) - 1; i > at; i-- {
			if lanes[i] == c.ID {
				left := i - 1
				for lanes[left] != c.ID {
					left--
				}
				rows = append(rows, []string{joint(left, i, len(lanes))})
				lanes = slices.Delete(lanes, i, i+1)
			}
		}
		rows = append(rows, h.row(c, node(at, len(lanes), c.ID == h.Head), now))
		lanes[at] = c.Parent
	}
	return printTable(w, rows)
}

// row is the line of one checkpoint.
func (h History) row(c Checkpoint, graph string, now time.Time) []string {
	var names []string
	if c.ID == h.Head {
		names = append(names, revHead)
	}
	names = append(names, c.Tags...)
	dirty, unique := "-", "-"
	if c.DirtyPages != nil {
		dirty = fmt.Sprintf("%d pages", *c.DirtyPages)
	}
	if c.UniqueBytes != nil {
		unique = FormatBytes(*c.UniqueBytes)
	}
	return []string{graph, string(c.ID), FormatAge(now.Sub(c.Time)), c.Trigger, dirty, unique, strings.Join(names, ", ")}
}

// node draws a line of the graph with a checkpoint in column at of width; the head is a filled one.
func node(at, width int, head bool) string {
	columns := slices.Repeat([]string{"|"}, width)
	columns[at] = "o"
	if head {
		columns[at] = "*"
	}
	return strings.Join(columns, " ")
}

// joint draws the line in which column from runs into column to at its left, and those right of from move up.
func joint(to, from, width int) string {
	var b strings.Builder
	for column := range width {
		switch {
		case column < to:
			b.WriteString("| ")
		case column < from-1:
			b.WriteString("|_")
		case column < from:
			b.WriteString("|/")
		case column > from:
			b.WriteString(" /")
		}
	}
	return b.String()
}

// printTable aligns columns. A row may have fewer cells than others.
func printTable(w io.Writer, rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var text strings.Builder
		for i, cell := range row {
			text.WriteString(cell)
			text.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(text.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// FormatAge writes a duration in its largest whole unit: "850ms", "12s", "3m", "7h", "2d".
func FormatAge(d time.Duration) string {
	switch {
	case d < 0:
		return "0s" // the clock was set back
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// FormatBytes writes an amount of memory with a unit of 1024: "12 B", "1.5 MiB".
func FormatBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1023.95 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
