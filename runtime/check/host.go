package check

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Result is what a probe found out.
type Result string

// Yes and No are proven; Unknown means that the probe could not tell, and why is in Probe.Detail.
const (
	Yes     Result = "yes"
	No      Result = "no"
	Unknown Result = "unknown"
)

// Probe is one question to the host and the answer.
type Probe struct {
	Name   string `json:"name"`
	Tests  string `json:"tests"` // the question
	Result Result `json:"result"`
	Detail string `json:"detail,omitempty"` // the figure or the reason behind Result
	// LeastKernel is the first Linux that has it, "" where that is not a matter of the version.
	LeastKernel string `json:"leastKernel,omitempty"`
	// RequiredBy lists the engines that cannot do without; UsefulFor says what it is good for otherwise.
	RequiredBy []string `json:"requiredBy,omitempty"`
	UsefulFor  string   `json:"usefulFor,omitempty"`
	WayOut     string   `json:"wayOut,omitempty"` // only when Result is not Yes
}

// HostReport is what Host found.
type HostReport struct {
	Kernel  string         `json:"kernel"` // release
	Arch    string         `json:"arch"`
	Probes  []Probe        `json:"probes"`
	Engines []EngineStatus `json:"engines"`
}

// Find returns the probe called name, or nil.
func (h *HostReport) Find(name string) *Probe {
	for i := range h.Probes {
		if h.Probes[i].Name == name {
			return &h.Probes[i]
		}
	}
	return nil
}

// errAbsent is what a probe function wraps when it has proven that a feature is not there. Any other error means that it
// could not tell.
var errAbsent = errors.New("not there")

// absent makes an error that proves absence and says why.
func absent(format string, args ...any) error {
	return &absence{text: fmt.Sprintf(format, args...)}
}

// absence may know a better way out than the probe does.
type absence struct{ text, wayOut string }

func (a *absence) Error() string        { return a.text }
func (a *absence) Is(target error) bool { return target == errAbsent }

// test is a probe before it has run. run returns what it found, for people, and nil, an absence or another error.
type test struct {
	Probe
	run func() (detail string, err error)
}

// Host runs all probes. They change nothing on the host and need no privilege to run; what a lack of privilege hides is
// reported as unknown. criuPath names the CRIU to ask, "" is the one that criu.Find finds; with one it takes some tenths of a second.
func Host(criuPath string) *HostReport {
	report := &HostReport{Kernel: kernelRelease(), Arch: runtime.GOARCH}
	for _, group := range [][]test{privilegeTests, kernelTests, memoryTests, systemTests, criuTests(criuPath), capacityTests} {
		for i := range group {
			report.Probes = append(report.Probes, group[i].probe())
		}
	}
	report.Engines = judgeEngines(report)
	return report
}

func (t *test) probe() Probe {
	p := t.Probe
	detail, err := t.run()
	p.Detail = detail
	switch {
	case err == nil:
		p.Result, p.WayOut = Yes, ""
		return p
	case errors.Is(err, errAbsent):
		p.Result = No
	default:
		p.Result = Unknown
	}
	p.Detail = err.Error()
	var a *absence
	if errors.As(err, &a) && a.wayOut != "" {
		p.WayOut = a.wayOut
	}
	return p
}

func kernelRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "unknown: " + err.Error()
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// judge turns the errno of a system call that was made only to see whether it exists into a probe's error.
// A seccomp filter may answer EPERM in place of the kernel, so that proves nothing.
func judge(call string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.E2BIG):
		return absent("%s: %v", call, err)
	default:
		return fmt.Errorf("%s: %w", call, err)
	}
}
