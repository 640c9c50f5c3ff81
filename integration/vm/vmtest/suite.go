package vmtest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/runtime/engine/enginetest"
)

// Suite is the tests of one package.
type Suite struct {
	Package string   // for go test -c: an import path, or a path from the test's own directory
	Tags    string   // build tags
	Args    []string // for the test binary, such as "-test.run=TestConformance"
	// Options describe the VM. Command, Stdout and Output are Run's own; the test binary and what belongs to it is
	// added to Files and Env.
	Options vm.Options
	// EngineTest provides the services of runtime/engine/enginetest, compiled on this machine.
	EngineTest bool
	// NoSkips makes a skipped test a failed one: for a machine that has all that the tests need.
	NoSkips bool
	// Cover is the path of the file that receives the coverage profile. "" means none.
	Cover string
}

// Run builds the test binary, runs it in a VM and reports each of its tests as a subtest of t.
func Run(t *testing.T, s Suite) {
	t.Helper()
	o := s.Options
	binary := s.build(t)
	o.Files = append(o.Files, vm.File{Host: binary, Guest: "/usr/local/bin/vm.test"})
	o.Env = append([]string{"TMPDIR=/var/tmp"}, o.Env...)
	limit, err := o.Limit()
	if err != nil {
		t.Fatal(err)
	}
	limit -= limit / 8 // so that the binary tells what it hangs in before the VM's time is over
	o.Command = append([]string{"vm.test", "-test.v=test2json", "-test.timeout=" + limit.String()}, s.Args...)
	if s.EngineTest {
		dir := t.TempDir()
		if err := enginetest.BuildPrograms(dir); err != nil {
			t.Fatal(err)
		}
		o.Files = append(o.Files, vm.File{Host: dir, Guest: "/usr/local/lib/enginetest"})
		o.Env = append(o.Env, enginetest.ProgramsVariable+"=/usr/local/lib/enginetest")
	}
	if s.Cover != "" {
		o.Output = t.TempDir()
		o.Command = append(o.Command, "-test.coverprofile=/out/cover")
	}
	var stdout, stderr bytes.Buffer
	o.Stdout, o.Stderr = &stdout, &stderr
	r, runErr := vm.Run(t.Context(), o)
	results, err := parse(stdout.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	results.report(t, s.NoSkips)
	if runErr != nil {
		t.Fatalf("%v\n--- stderr ---\n%s", runErr, tail(stderr.String()))
	}
	if r.Code != 0 && !results.failed() {
		t.Errorf("the test binary ended with %d, and no test has failed\n%s%s", r.Code, tail(stdout.String()), tail(stderr.String()))
	}
	if len(results.children) == 0 {
		t.Errorf("the test binary has run no test (%s)", strings.Join(o.Command, " "))
	}
	if s.Cover != "" {
		s.keepCover(t, o.Output)
	}
}

func (s Suite) build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "vm.test")
	args := []string{"test", "-c", "-o", binary}
	if s.Tags != "" {
		args = append(args, "-tags", s.Tags)
	}
	if s.Cover != "" {
		args = append(args, "-cover", "-coverpkg", "corsa.dev/corsa/...")
	}
	if text, err := exec.Command("go", append(args, s.Package)...).CombinedOutput(); err != nil {
		t.Fatalf("go test -c %s: %v\n%s", s.Package, err, text)
	}
	if _, err := os.Stat(binary); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("package %s has no tests", s.Package)
	}
	return binary
}

func (s Suite) keepCover(t *testing.T, dir string) {
	t.Helper()
	profile, err := os.ReadFile(filepath.Join(dir, "cover"))
	if err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(s.Cover, profile, 0o644); err != nil {
		t.Error(err)
	}
}

// tail is the end of a text that may be long.
func tail(s string) string {
	const limit = 16 << 10
	if len(s) > limit {
		return "…" + s[len(s)-limit:]
	}
	return s
}
