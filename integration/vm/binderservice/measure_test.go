package binderservice_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/measure"
)

// measureBinder runs `corsa measure --gate binder`, ends it at the step of that name, if any, and sees that nothing is left of it.
func measureBinder(t *testing.T, step string, args ...string) (report measure.Report, said string, err error) {
	t.Helper()
	if !inVM() {
		t.Skip("Binder: only in the VM")
	}
	dir, err := os.MkdirTemp("", "measure-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for apps, who are not root
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(corsa, append([]string{"measure", "--gate", "binder", "--json"}, args...)...)
	stderr := &ender{step: step, cmd: cmd}
	var stdout bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "TMPDIR="+dir), &stdout, stderr
	if err = cmd.Run(); err == nil {
		err = json.Unmarshal(stdout.Bytes(), &report)
	}
	if e := os.Remove(dir); e != nil { // what was in it has gone
		t.Error(e)
	}
	s := &served{t: t, root: dir}
	s.eventually("no process is left", func() bool { return len(s.processes()) == 0 })
	mounts, e := os.ReadFile("/proc/self/mountinfo")
	if e != nil || strings.Contains(string(mounts), filepath.Base(dir)) {
		t.Errorf("mounts are left (%v):\n%s", e, mounts)
	}
	return report, stderr.text.String(), err
}

// ender takes what a program says, and ends it once that has a step's name in it.
type ender struct {
	step string
	cmd  *exec.Cmd
	text strings.Builder
	done bool
}

func (e *ender) Write(p []byte) (int, error) {
	e.text.Write(p)
	if !e.done && e.step != "" && strings.Contains(e.text.String(), e.step) {
		e.done = true
		return len(p), e.cmd.Process.Signal(unix.SIGTERM)
	}
	return len(p), nil
}

// checkRows compares the rows, without the figures, with those of each CPU.
func checkRows(t *testing.T, report measure.Report, want []string) {
	t.Helper()
	have := map[string]int{}
	for _, r := range report.Rows {
		have[r.Engine+": "+r.Name+", "+r.Service]++
		if r.Value.N < 2 || r.Value.P50 <= 0 || r.Value.P99 < r.Value.P50 {
			t.Errorf("%s of %s: %+v", r.Name, r.Service, r.Value)
		}
		if r.Engine != "" && (r.Baseline == nil || r.Relation != "ratio" || r.Result <= 0) {
			t.Errorf("%s of %s is compared with nothing: %+v", r.Name, r.Service, r)
		}
		if strings.HasSuffix(r.Name, ", switch") && !strings.Contains(r.Note, "switches on 100% of the calls") {
			t.Errorf("%s of %s, engine %s: %s", r.Name, r.Service, r.Engine, r.Note)
		}
		t.Logf("%-4s %-28s %-7s %-3s p50 %8.0f, p99 %8.0f, min %8.0f, n %5d: %6.2f; %s",
			r.Engine, r.Name, r.Service, r.CPU, r.Value.P50, r.Value.P99, r.Value.Min, r.Value.N, r.Result, r.Note)
	}
	for _, row := range want {
		if have[row] != 2 {
			t.Errorf("%d rows of %q, want one for each CPU", have[row], row)
		}
		delete(have, row)
	}
	if len(have) > 0 {
		t.Errorf("rows that should not be there: %v", have)
	}
	if len(report.Method) == 0 {
		t.Error("it does not say how it measured")
	}
}

var (
	directRows   = []string{": round trip, direct, echo", ": round trip, direct, one, echo"}
	kernelRows   = []string{"kmod: round trip, echo", "kmod: round trip, switch, echo", "kmod: interval, 2 apps"}
	brokeredRows = []string{"fork: round trip, broker, echo", "fork: round trip, broker, switch, echo", "fork: interval, broker, 2 apps"}
)

// Calls are measured direct, through the gate in the kernel and through the broker.
func TestGuestMeasure(t *testing.T) {
	report, said, err := measureBinder(t, "", "--quick", "--apps", "2")
	if err != nil {
		t.Fatal(err, said)
	}
	checkRows(t, report, append(append(directRows[:2:2], kernelRows...), brokeredRows...))
	if len(report.Absent) > 0 {
		t.Errorf("not measured: %q", report.Absent)
	}
}

// Without the module calls are measured direct and through the broker, and what is missing has its reason.
func TestBareMeasure(t *testing.T) {
	report, said, err := measureBinder(t, "", "--quick", "--apps", "2")
	if err != nil {
		t.Fatal(err, said)
	}
	checkRows(t, report, append(directRows[:2:2], brokeredRows...))
	if len(report.Absent) != 1 || !strings.Contains(report.Absent[0], "corsa.ko") && !strings.Contains(report.Absent[0], "kernel module") {
		t.Errorf("not measured: %q", report.Absent)
	}
	if _, said, err := measureBinder(t, "", "--quick", "--engine", "kmod"); err == nil || !strings.Contains(said, "kernel module") {
		t.Errorf("with an engine that is not there: %v, %s", err, said)
	}
}

// A measurement that is given up says so and leaves nothing, at whichever step that is.
func TestBareMeasureGivenUp(t *testing.T) {
	for _, step := range []string{"the service behind", "round trips", "2 apps at once"} {
		t.Run(step, func(t *testing.T) {
			_, said, err := measureBinder(t, step, "--quick")
			var status *exec.ExitError
			if !errors.As(err, &status) || status.ExitCode() != 1 || !strings.Contains(said, "corsa: binder, one CPU: ") {
				t.Errorf("%v\n%s", err, said)
			}
		})
	}
}
