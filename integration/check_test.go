package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"corsa.dev/corsa/runtime/check/holdertest"
)

// holder starts a program that holds what mode says (see holdertest) until the end of the test.
func holder(t *testing.T, mode string, args ...string) (pid int) {
	t.Helper()
	binary, err := holdertest.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return holdertest.Start(t, exec.Command(binary, append([]string{mode}, args...)...))
}

type checkReport struct {
	Virtualizable bool
	PID           int
	Comm          string
	Blockers      []struct{ Object, Reason, WayOut string }
	Notes         []struct{ Object, Text string }
}

// check runs `corsa check --json` and compares the exit code with what the report says.
func (c *corsa) check(args ...string) checkReport {
	c.t.Helper()
	stdout, stderr, code := c.run("", append([]string{"check", "--json"}, args...)...)
	var r checkReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		c.t.Fatalf("%v in %q; stderr %q", err, stdout, stderr)
	}
	if want := map[bool]int{true: 0, false: 1}[r.Virtualizable]; code != want {
		c.t.Errorf("exit code %d, want %d", code, want)
	}
	if r.Virtualizable != (len(r.Blockers) == 0) {
		c.t.Errorf("virtualizable is %t with %d blockers", r.Virtualizable, len(r.Blockers))
	}
	return r
}

func (r *checkReport) objects() []string {
	var list []string
	for _, b := range r.Blockers {
		list = append(list, b.Object)
	}
	return list
}

func TestCheckNamesWhatBlocks(t *testing.T) {
	c := newCorsa(t)
	file := filepath.Join(t.TempDir(), "data.db")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(holder(t, "three", file))
	want := []string{
		`fd 17 \(io_uring\)`,
		`mapping [0-9a-f]+-[0-9a-f]+ \(` + regexp.QuoteMeta(file) + `\)`,
		`child \d+ \(helper\)`,
	}

	text, stderr, code := c.run("", "check", "--pid", pid)
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, object := range want {
		block := regexp.MustCompile(`(?m)^no  ` + object + "\n    reason:  .+\n    way out: .+$")
		if !block.MatchString(text) {
			t.Errorf("no block on %s in:\n%s", object, text)
		}
	}

	objects := func(r checkReport) string { return strings.Join(r.objects(), "\n") }
	report := c.check("--pid", pid)
	if report.Comm != "holder" || strconv.Itoa(report.PID) != pid {
		t.Errorf("pid %d, comm %q", report.PID, report.Comm)
	}
	for _, object := range want {
		if !regexp.MustCompile(`(?m)^` + object + `$`).MatchString(objects(report)) {
			t.Errorf("no %s in the JSON:\n%s", object, objects(report))
		}
	}
	if shared := c.check("--pid", pid, "--shared", filepath.Dir(file)); strings.Contains(objects(shared), file) || len(shared.Blockers) != len(report.Blockers)-1 {
		t.Errorf("with --shared, of\n%s\nthere is left\n%s", objects(report), objects(shared))
	}
}

func TestCheckPassesWhatIsDeclared(t *testing.T) {
	c := newCorsa(t)
	socket := filepath.Join(t.TempDir(), "s")
	pid := strconv.Itoa(holder(t, "unix_listen", socket))
	if r := c.check("--pid", pid); !slices.Equal(r.objects(), []string{"fd 17 (unix stream listening on " + socket + ")"}) {
		t.Errorf("blockers %q", r.objects())
	}
	if r := c.check("--pid", pid, "--socket", socket); !r.Virtualizable {
		t.Errorf("blockers %q", r.objects())
	}
	if text := c.ok("check", "--pid", pid, "--socket", socket); !strings.Contains(text, "can be virtualised") {
		t.Error(text)
	}
}

func TestCheckOfAContainer(t *testing.T) {
	c := newCorsa(t)
	// A container that declares no service: one that does has to listen before it is started.
	dir, id := busyboxBundle(t, c, func(*specs.Spec) {}, "sleep", "1000"), containerID(t)
	c.ok("create", "--bundle", dir, id)
	c.fails(1, "corsa start "+id, "check", id)
	c.ok("start", id)
	st := c.state(id)
	eventually(t, "sleep is executed", func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.PID))
		return err == nil && string(comm) == "sleep\n"
	})
	r := c.check(id)
	// Without the init process that corsa adds to services the program is pid 1.
	if r.PID != st.PID || !slices.Equal(r.objects(), []string{fmt.Sprintf("process %d (sleep)", st.PID)}) {
		t.Errorf("pid %d, want %d; blockers %q", r.PID, st.PID, r.objects())
	}
}

func TestCheckOfTheHost(t *testing.T) {
	c := newCorsa(t)
	var report struct {
		Kernel  string
		Probes  []struct{ Name, Tests, Result, WayOut string }
		Engines []struct {
			Name      string
			Available bool
		}
	}
	stdout, stderr, code := c.run("", "check", "--json")
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v in %q; stderr %q", err, stdout, stderr)
	}
	if len(report.Probes) == 0 || len(report.Engines) == 0 || report.Kernel == "" {
		t.Fatalf("%+v", report)
	}
	available := false
	for _, e := range report.Engines {
		available = available || e.Available
	}
	if available != (code == 0) {
		t.Errorf("exit code %d with engines %+v", code, report.Engines)
	}
	text, _, _ := c.run("", "check")
	for _, p := range report.Probes {
		if p.Result != "yes" && !strings.Contains(text, p.WayOut) {
			t.Errorf("the text lacks the way out of %s: %q", p.Name, p.WayOut)
		}
		if !regexp.MustCompile(`(?m)^` + p.Result + ` +` + p.Name + ` `).MatchString(text) {
			t.Errorf("the text lacks %s: %s", p.Name, p.Result)
		}
	}
}

func TestCheckRefusesBadArguments(t *testing.T) {
	c := newCorsa(t)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	self := strconv.Itoa(os.Getpid())
	c.fails(1, "no such process", "check", "--pid", strconv.Itoa(ended.Process.Pid))
	c.fails(1, "does not exist", "check", "nosuch")
	c.fails(1, "must be positive", "check", "--pid", "0")
	c.fails(1, "must be a number", "check", "--pid", "x")
	c.fails(1, "exclude each other", "check", "--pid", self, "id")
	c.fails(1, "give --pid or a container ID", "check", "--shared", "/x")
	c.fails(1, "must be an absolute path", "check", "--pid", self, "--shared", "x")
	c.fails(1, "--socket", "check", "--pid", self, "--socket", "relative")
	c.fails(1, "not a loopback address", "check", "--pid", self, "--tcp", "192.0.2.1:80")
	c.fails(1, `unexpected argument "b"`, "check", "a", "b")
}

func TestFeatures(t *testing.T) {
	c := newCorsa(t)
	var document struct {
		features.Features
		Corsa struct {
			Engines     []struct{ Name string }
			Gates       []string
			Annotations []string
			Probes      []struct{ Name string }
			Version     string
		}
	}
	if err := json.Unmarshal([]byte(c.ok("features")), &document); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(document.Linux.Namespaces, "pid") || !slices.Contains(document.Hooks, "createRuntime") || !slices.Contains(document.MountOptions, "ro") {
		t.Errorf("%+v", document.Features)
	}
	own := document.Corsa
	if len(own.Engines) == 0 || len(own.Probes) == 0 || own.Version == "" ||
		!slices.Contains(own.Annotations, "dev.corsa.socket") || !slices.Contains(own.Gates, "socket") {
		t.Errorf("%+v", own)
	}
	strict := json.NewDecoder(strings.NewReader(c.ok("features", "--oci")))
	strict.DisallowUnknownFields()
	var plain features.Features
	if err := strict.Decode(&plain); err != nil {
		t.Errorf("a strict reader: %v", err)
	}
	if !reflect.DeepEqual(plain, document.Features) || plain.Annotations["dev.corsa.version"] != own.Version {
		t.Errorf("with --oci %+v, without %+v", plain, document.Features)
	}
	for _, a := range []string{"bundle", "dev.corsa.", "org.criu.config", "org.systemd.property."} {
		if !slices.Contains(plain.PotentiallyUnsafeConfigAnnotations, a) {
			t.Errorf("%s is not said to be unsafe", a)
		}
	}
	if plain.Annotations["org.opencontainers.runc.checkpoint.enabled"] != "true" {
		t.Errorf("annotations %v", plain.Annotations)
	}
	c.fails(1, "unexpected argument", "features", "x")
}
