package check

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostReport(t *testing.T) {
	report := Host("")
	if report.Kernel != kernelRelease() || report.Arch == "" {
		t.Errorf("kernel %q, arch %q", report.Kernel, report.Arch)
	}
	seen := map[string]bool{}
	for _, p := range report.Probes {
		t.Logf("%-8s%-24s%s", p.Result, p.Name, p.Detail)
		switch {
		case seen[p.Name]:
			t.Errorf("%s: twice", p.Name)
		case p.Name == "" || p.Tests == "" || p.RequiredBy == nil && p.UsefulFor == "":
			t.Errorf("%+v: incomplete", p)
		case p.Result == Yes && p.WayOut != "":
			t.Errorf("%s: a way out where none is needed", p.Name)
		case (p.Result == No || p.Result == Unknown) && (p.Detail == "" || p.WayOut == ""):
			t.Errorf("%s: %s without a reason or a way out", p.Name, p.Result)
		case p.Result != Yes && p.Result != No && p.Result != Unknown:
			t.Errorf("%s: result %q", p.Name, p.Result)
		}
		seen[p.Name] = true
		for _, engine := range p.RequiredBy {
			if !slices.ContainsFunc(report.Engines, func(s EngineStatus) bool { return s.Name == engine }) {
				t.Errorf("%s: required by an unknown engine %q", p.Name, engine)
			}
		}
		if report.Find(p.Name) == nil || report.Find(p.Name).Tests != p.Tests {
			t.Errorf("Find(%q) = %v", p.Name, report.Find(p.Name))
		}
	}
	if report.Find("no such probe") != nil {
		t.Error("found a probe that does not exist")
	}
}

// A kernel that is new enough must have what depends on nothing but the version: else the probe is wrong.
func TestProbesAgreeWithKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: a lack of privilege looks like a lack of the feature")
	}
	report := Host("")
	for _, name := range []string{"clone3-set-tid", "pidfd-open", "pidfd-getfd", "so-peerpidfd", "close-range", "madv-collapse", "pagemap-scan", "memfd"} {
		p := report.Find(name)
		if p == nil {
			t.Errorf("no probe %s", name)
			continue
		}
		var have, least [2]int
		for version, numbers := range map[string]*[2]int{report.Kernel: &have, p.LeastKernel: &least} {
			if _, err := fmt.Sscanf(version, "%d.%d", &numbers[0], &numbers[1]); err != nil {
				t.Fatalf("version %q: %v", version, err)
			}
		}
		if newEnough := slices.Compare(have[:], least[:]) >= 0; newEnough != (p.Result == Yes) {
			t.Errorf("%s: %s (%s) on %s, least is %s", name, p.Result, p.Detail, report.Kernel, p.LeastKernel)
		}
	}
}

func TestProbesSeeTheLackOfPrivilege(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to start as another user")
	}
	var report *HostReport
	if err := asNobody(func() { report = Host("") }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ptrace-others", "cap-sys-admin", "cap-checkpoint-restore", "cap-sys-resource"} {
		if p := report.Find(name); p == nil || p.Result != No {
			t.Errorf("%s as nobody: %+v", name, p)
		}
	}
	if p := report.Find("ptrace"); p.Result == No && !strings.Contains(p.Detail, "yama") {
		t.Errorf("ptrace of the user's own processes: %+v", p)
	}
}

func TestThreeResults(t *testing.T) {
	for _, test := range []struct {
		err    error
		want   Result
		detail string
	}{
		{nil, Yes, "found"},
		{absent("no %s", "such"), No, "no such"},
		{fmt.Errorf("looking: %w", absent("gone")), No, "looking: gone"},
		{errors.New("denied"), Unknown, "denied"},
		{judge("call", unix.ENOSYS), No, "call: " + unix.ENOSYS.Error()},
		{judge("call", unix.EPERM), Unknown, "call: " + unix.EPERM.Error()},
		{judge("call", nil), Yes, "found"},
	} {
		p := (&testProbe{err: test.err}).make().probe()
		if p.Result != test.want || p.Detail != test.detail || (p.WayOut == "") != (test.want == Yes) {
			t.Errorf("%v: %+v", test.err, p)
		}
	}
}

type testProbe struct{ err error }

func (p *testProbe) make() *test {
	return &test{Probe{Name: "x", WayOut: "do it"}, func() (string, error) { return "found", p.err }}
}

func TestEngineStatus(t *testing.T) {
	for _, test := range []struct {
		result  Result
		host    bool
		missing int
	}{{Yes, true, 0}, {Unknown, true, 0}, {No, false, 1}} {
		report := &HostReport{Probes: []Probe{
			{Name: "a", Result: test.result, Detail: "because", WayOut: "so", RequiredBy: []string{EngineFork}},
			{Name: "b", Result: No, Detail: "other", WayOut: "so", RequiredBy: []string{EngineKmod}},
		}}
		list := judgeEngines(report)
		kmod, status := list[0], list[1] // in the order in which auto tries them
		if status.Name != EngineFork || status.Host != test.host || status.Available != test.host || len(status.Missing) != test.missing {
			t.Errorf("%s: %+v", test.result, status)
		}
		if test.missing > 0 && status.Missing[0] != "a: because; way out: so" {
			t.Errorf("missing %q", status.Missing)
		}
		if kmod.Name != EngineKmod || kmod.Available || !kmod.Built || kmod.Host {
			t.Errorf("%+v", kmod)
		}
	}
}
