package enginetest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// row is one object of the report.
type row struct {
	object   string
	engines  map[string]expectation
	programs []string
}

// Report is the table of what becomes of which object with which engine, in Markdown, as the programs of the suite declare
// it. That the engines do so is what the suite asserts.
func Report() (string, error) {
	rows, err := reportRows()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| object | %s | programs |\n|%s\n", strings.Join(Engines, " | "), strings.Repeat(" --- |", len(Engines)+2))
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.object)
		for _, e := range Engines {
			x := r.engines[e]
			fmt.Fprintf(&b, " %s", x.fate)
			if x.text != "" {
				fmt.Fprintf(&b, ": %s", strings.ReplaceAll(x.text, "|", `\|`))
			}
			b.WriteString(" |")
		}
		fmt.Fprintf(&b, " %s |\n", strings.Join(r.programs, ", "))
	}
	return b.String(), nil
}

// reportRows has a row for each object: the private ones first. Programs about one object have to agree.
func reportRows() ([]*row, error) {
	byObject := map[string]*row{}
	var rows []*row
	declared := []program{initProgram}
	for _, dir := range programDirs {
		list, err := programs(dir)
		if err != nil {
			return nil, err
		}
		declared = append(declared, list...)
	}
	for i := range declared {
		p := &declared[i]
		r := byObject[p.object]
		if r == nil {
			r = &row{object: p.object, engines: map[string]expectation{}}
			byObject[p.object], rows = r, append(rows, r)
		}
		r.programs = append(r.programs, p.name)
		for _, e := range Engines {
			have, want := r.engines[e], p.expect(e)
			if have.fate != "" && have.fate != want.fate {
				return nil, fmt.Errorf("program %s: %s is %s with the engine %s, but %s with other programs", p.name, p.object, want.fate, e, have.fate)
			}
			if have.text != "" {
				want = have
			}
			r.engines[e] = want
		}
	}
	rank := func(r *row) int {
		n := 0
		for _, e := range Engines {
			n += slices.Index([]fate{private, shared, partly, refused}, r.engines[e].fate)
		}
		return n
	}
	slices.SortStableFunc(rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(strings.ToLower(a.object), strings.ToLower(b.object)))
	})
	return rows, nil
}

// outcomes says for each program what the suite found out with one engine.
type outcomes map[string]string

// table is the report of one run.
func (s *suite) table() (string, error) {
	rows, err := reportRows()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "engine %s\n", s.engine)
	for _, r := range rows {
		var results []string
		for _, name := range r.programs {
			if how := s.outcomes[name]; how != "" {
				results = append(results, name+" "+how)
			}
		}
		if len(results) > 0 {
			x := r.engines[s.engine]
			fmt.Fprintf(&b, "%-60s %-8s %s\n", r.object, x.fate, strings.Join(results, ", "))
		}
	}
	return b.String(), nil
}
