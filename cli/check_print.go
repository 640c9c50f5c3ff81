package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/check"
)

// marks begin a line of a report: signs where a person looks on, words elsewhere.
type marks struct{ yes, no, unknown, note string }

func marksFor(w io.Writer) marks {
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		return marks{"✓", "✗", "?", "·"}
	}
	return marks{"yes", "no", "unknown", "note"}
}

func isTerminal(f *os.File) bool {
	return control(f, func(fd int) error {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	}) == nil
}

func (m *marks) of(r check.Result) string {
	switch r {
	case check.Yes:
		return m.yes
	case check.No:
		return m.no
	}
	return m.unknown
}

// printProcess writes what stands in the way first: object, reason, way out.
func printProcess(w io.Writer, report *check.Report) error {
	mark := marksFor(w)
	var b strings.Builder
	fmt.Fprintf(&b, "process %d (%s), %s, %s resident: ", report.PID, report.Comm, count(report.Threads, "thread"), size(report.Resident))
	if n := len(report.Blockers); n > 0 {
		fmt.Fprintf(&b, "cannot be virtualised by the engine %s, %s\n", report.Engine, count(n, "blocker"))
	} else {
		fmt.Fprintf(&b, "can be virtualised, engine %s\n", report.Engine)
	}
	for _, blocker := range report.Blockers {
		fmt.Fprintf(&b, "\n%s  %s\n    reason:  %s\n    way out: %s\n", mark.no, blocker.Object, blocker.Reason, blocker.WayOut)
	}
	if len(report.Notes) > 0 {
		b.WriteString("\n")
	}
	for _, note := range report.Notes {
		fmt.Fprintf(&b, "%s  %s: %s\n", mark.note, note.Object, note.Text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printHost writes the engines, then each probe, then the ways out of what is missing.
func printHost(w io.Writer, report *check.HostReport) error {
	mark := marksFor(w)
	var head strings.Builder
	fmt.Fprintf(&head, "host: Linux %s, %s\n\n", report.Kernel, report.Arch)
	if uid := os.Geteuid(); uid != 0 {
		fmt.Fprintf(&head, "%s  asked as uid %d; `corsa serve` needs root\n\n", mark.note, uid)
	}
	for _, engine := range report.Engines {
		if engine.Available {
			fmt.Fprintf(&head, "%s  engine %s\n", mark.yes, engine.Name)
			continue
		}
		fmt.Fprintf(&head, "%s  engine %s\n", mark.no, engine.Name)
		for _, missing := range engine.Missing {
			fmt.Fprintf(&head, "    %s\n", missing)
		}
	}
	head.WriteString("\n")
	if _, err := io.WriteString(w, head.String()); err != nil {
		return err
	}
	var rows [][]string
	for i := range report.Probes {
		p := &report.Probes[i]
		rows = append(rows, []string{mark.of(p.Result), p.Name, p.Tests + "?", p.Detail})
	}
	if err := printTable(w, []string{"ANSWER", "PROBE", "QUESTION", "FOUND"}, rows); err != nil {
		return err
	}
	return printWaysOut(w, report)
}

func printWaysOut(w io.Writer, report *check.HostReport) error {
	var b strings.Builder
	for i := range report.Probes {
		p := &report.Probes[i]
		if p.Result == check.Yes {
			continue
		}
		purpose := p.UsefulFor
		if len(p.RequiredBy) > 0 {
			purpose = "engine " + strings.Join(p.RequiredBy, ", ")
		}
		fmt.Fprintf(&b, "%s, for %s: %s\n", p.Name, purpose, p.WayOut)
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := io.WriteString(w, "\nways out:\n"+b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func size(bytes int64) string {
	const kib, mib = 1 << 10, 1 << 20
	if bytes < mib {
		return fmt.Sprintf("%d KiB", bytes/kib)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/mib)
}
