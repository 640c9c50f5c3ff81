package enginetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// refused asserts that the engine will not adopt p, says why in words that help, and leaves the process as it was.
func (s *suite) refused(t *testing.T, p program, e expectation, l launch) {
	pr := s.start(t, p, l)
	c := pr.dial(t, 0)
	c.mutate(5)
	c.verify(5)
	c.close()
	pr.settle(t)
	before := surface(t, pr.pid())
	service, err := s.newEngine(t).Adopt(context.Background(), pr.target(t))
	if err == nil {
		(&subject{t: t, process: pr, service: service}).destroy()
		t.Fatalf("the engine adopted a process with %s", p.doc)
	}
	if !errors.Is(err, engine.ErrRefused) {
		t.Fatalf("adopt: %v, which is not ErrRefused", err)
	}
	var refusal *engine.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("adopt: %v, which is not a *Refusal", err)
	}
	if refusal.PID != pr.pid() {
		t.Errorf("the refusal is about process %d, not %d", refusal.PID, pr.pid())
	}
	named := false
	for _, b := range refusal.Blockers {
		named = named || strings.Contains(b.Object, e.word) && strings.Contains(b.Reason, e.text)
		if b.Object == "" || b.Reason == "" || b.WayOut == "" {
			t.Errorf("incomplete blocker: %+v", b)
		}
	}
	if !named {
		t.Errorf("no blocker names %q and says %q: %v", e.word, e.text, err)
	}
	pr.unharmed(t, before, 5)
}

// unharmed checks that the process runs on as if no engine had ever looked at it.
func (pr *process) unharmed(t *testing.T, before map[string]string, sum uint64) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pr.pid()))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("the process is gone: %v\n%s", err, pr.stderr)
	}
	for _, status := range tasks {
		state := statusField(status, "State")
		if state == "" {
			continue // a thread that has ended since
		}
		if strings.ContainsAny(state[:1], "TtZ") || statusField(status, "TracerPid") != "0" {
			t.Errorf("the process is not left alone:\n%s", describe(pr.pid()))
		}
	}
	after := surface(t, pr.pid())
	for key, what := range after {
		if before[key] != what {
			t.Errorf("%s: %q, was %q", key, what, before[key])
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			t.Errorf("%s is gone", key)
		}
	}
	for range 2 {
		c := pr.dial(t, 0)
		c.verify(sum)
		c.close()
	}
}

// surface is what a process shows of itself: its descriptors, and its mappings but for the ends of those that grow.
func surface(t *testing.T, pid int) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			seen["fd "+e.Name()] = target
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != "[stack]" {
			start, _, _ := strings.Cut(f[0], "-")
			seen["mapping "+start] = f[1]
		}
	}
	return seen
}
