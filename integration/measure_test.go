package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMeasure(t *testing.T) {
	needs(t, "redis-server")
	c := newCorsa(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var report struct {
		Rows []struct {
			Name, Service string
			Value         struct{ P50 float64 }
		}
		Absent, Method []string
	}
	if err := json.Unmarshal([]byte(c.ok("measure", "--quick", "--service", "redis", "--apps", "2", "--json")), &report); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, r := range report.Rows {
		have[r.Name] = true
		if r.Service != "redis" && r.Service != "" || r.Value.P50 <= 0 && r.Name != "switch t_R" { // that is a difference
			t.Errorf("row %+v", r)
		}
	}
	for _, name := range []string{"switch t_R", "pause t_C", "restore", "GET", "turn", "dormant, unique"} {
		if !have[name] {
			t.Errorf("no row %q in %+v", name, report.Rows)
		}
	}
	if absent := strings.Join(report.Absent, " "); have["CRIU restore"] == strings.Contains(absent, "CRIU") {
		t.Errorf("CRIU is in the report: %v; absent: %q", have["CRIU restore"], absent)
	}
	if len(report.Method) == 0 {
		t.Error("it does not say how it measured")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		// A process that has gone meanwhile is none that was left.
		if b, _ := os.ReadFile(f); strings.Contains(string(b), dir) {
			t.Errorf("%s still runs %q", filepath.Dir(f), b)
		}
	}
}

func TestMeasureScale(t *testing.T) {
	needs(t, "redis-server")
	c := newCorsa(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var report struct {
		Rows []struct {
			Name, Service string
			Value         struct {
				P50 float64
				N   int
			}
		}
	}
	if err := json.Unmarshal([]byte(c.ok("measure", "scale", "--instances", "24", "--pinned=false", "--json")), &report); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, r := range report.Rows {
		have[r.Name+", "+r.Service] = true
		if r.Value.N < 1 || r.Value.P50 <= 0 && r.Name != "less MemAvailable" { // others use memory, too
			t.Errorf("row %+v", r)
		}
	}
	for _, row := range []string{"switched GET, 10 apps", "switched GET, 24 apps", "new app, 24 apps", "parked redis, 24 apps", "corsa apps, 24 apps"} {
		if !have[row] {
			t.Errorf("no row %q in %v", row, have)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	c.fails(1, "at least 20", "measure", "scale", "--instances", "3")
	c.fails(1, "RLIMIT_NOFILE", "measure", "scale", "--instances", "100000000")
}

func TestMeasureUsage(t *testing.T) {
	c := newCorsa(t)
	c.fails(1, "at least 2", "measure", "--apps", "1")
	c.fails(1, "redis, threads or a number of MiB", "measure", "--service", "1,nginx")
	c.fails(1, "unexpected argument", "measure", "extra")
	c.fails(1, "--service has no meaning with --gate binder", "measure", "--gate", "binder", "--service", "redis")
}

// Each runtime that is installed is in the table, or said to be missing, and nothing is left.
func TestMeasureStartup(t *testing.T) {
	c := newCorsa(t)
	var report struct {
		Rows []struct {
			Name     string
			Value    struct{ N int }
			Baseline *struct {
				Name  string
				Value struct{ P50 float64 }
			}
			Result float64
		}
		Absent []string
	}
	if err := json.Unmarshal([]byte(c.ok("measure", "startup", "--rounds", "3", "--json")), &report); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(report.Absent, "\n")
	for _, r := range report.Rows {
		if r.Value.N != 3 {
			t.Errorf("%s: %d rounds counted", r.Name, r.Value.N)
		}
		if r.Baseline != nil && (r.Result <= 0 || r.Baseline.Value.P50 <= 0) {
			t.Errorf("%s: %+v", r.Name, r)
		}
		if r.Baseline != nil {
			said += "\n" + r.Baseline.Name
		}
	}
	for _, name := range []string{"runc", "crun"} {
		if !strings.Contains(said, name) {
			t.Errorf("%s is neither measured nor said to be missing: %+v", name, report)
		}
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*/corsa-measure-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	c.fails(1, "--rounds 0", "measure", "startup", "--rounds", "0")
}
