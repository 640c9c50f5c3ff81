package vmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// event is what go tool test2json says.
type event struct {
	Action  string // run, pass, fail, skip, output, …
	Test    string
	Output  string
	Elapsed float64 // seconds
}

// result is one test of the binary, or the binary itself.
type result struct {
	name     string // the last part
	ran      bool   // false for what is only a part of names
	former   bool   // it has been run again since
	action   string // pass, fail, skip; "" as long as it runs
	elapsed  float64
	output   strings.Builder
	children []*result
}

// parse reads the output of a test binary that was run with -test.v=test2json.
func parse(output []byte) (*result, error) {
	convert := exec.Command("go", "tool", "test2json", "-t")
	convert.Stdin = bytes.NewReader(output)
	text, err := convert.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	return tree(bytes.NewReader(text))
}

func tree(r io.Reader) (*result, error) {
	top := &result{}
	for events := json.NewDecoder(r); ; {
		var e event
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			return top, nil
		} else if err != nil {
			return nil, fmt.Errorf("the events of a test: %w", err)
		}
		if e.Action == "run" {
			top.again(e.Test)
		}
		at := top.find(e.Test)
		switch e.Action {
		case "run":
			at.ran = true
		case "pass", "fail", "skip":
			at.action, at.elapsed = e.Action, e.Elapsed
		case "output":
			at.output.WriteString(e.Output)
		}
	}
}

// find returns the test of that full name, new if it was not known.
func (r *result) find(name string) *result {
	if name == "" {
		return r
	}
	first, rest, _ := strings.Cut(name, "/")
	for _, c := range r.children {
		if c.name == first && !c.former {
			return c.find(rest)
		}
	}
	c := &result{name: first}
	r.children = append(r.children, c)
	return c.find(rest)
}

// again makes room for a test of that name that begins. With -test.count each time is a result of its own.
func (r *result) again(name string) {
	parent, last := r, name
	if i := strings.LastIndex(name, "/"); i >= 0 {
		parent, last = r.find(name[:i]), name[i+1:]
	}
	for _, c := range parent.children {
		if c.name == last && c.action != "" {
			c.former = true
		}
	}
}

func (r *result) unfinished() bool { return r.ran && r.action == "" }

func (r *result) failed() bool {
	for _, c := range r.children {
		if c.action == "fail" || c.unfinished() || c.failed() {
			return true
		}
	}
	return false
}

// report makes subtests of t that say the same.
func (r *result) report(t *testing.T, noSkips bool) {
	t.Helper()
	for _, c := range r.children {
		t.Run(c.name, func(t *testing.T) {
			c.report(t, noSkips)
			// A test that only contains others says no more than its name.
			if text := c.said(); text != "" {
				t.Log(text)
			}
			if c.ran && len(c.children) == 0 {
				t.Logf("%.2f s in the VM", c.elapsed)
			}
			switch {
			case c.unfinished():
				t.Error("it has not come to its end in the VM")
			case c.action == "fail":
				t.Fail()
			case c.action == "skip" && noSkips:
				t.Error("skipped, although the VM should have what it needs")
			case c.action == "skip":
				t.SkipNow()
			}
		})
	}
}

// said is the output without the lines that the test framework adds.
func (r *result) said() string {
	var b strings.Builder
	for line := range strings.Lines(r.output.String()) {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "=== ") || strings.HasPrefix(trimmed, "--- ") {
			continue
		}
		b.WriteString(line)
	}
	return strings.TrimRight(b.String(), "\n")
}
