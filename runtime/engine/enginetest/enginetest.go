// Package enginetest is the conformance suite that every engine.Engine passes.
//
// It follows CRIU's zdtm: one tiny self-checking C program for each kind of state (programs/state), and one harness
// that drives it through adopt, branch, activate, change, checkpoint, park, crash and restore. Each program keeps a
// sum of the numbers it is told, in the kind of state it stands for, so that the harness needs no more than integers
// to know what every instance and every image has to hold. Programs that an engine has to refuse are in
// programs/refuse.
//
// Adding a kind of state is adding one C file; programs/svc.h says what it has to provide, and the lines that begin
// with "//:" in it say what the harness has to know:
//
//	//: doc TEXT       what the program proves
//	//: object TEXT    its row in the report (docs/conformance-engines.md)
//	//: park any       one of its threads never waits, so that it is parked at any instruction
//	//: listen KIND,…  its listeners, unix or tcp; one unix listener if left out
//	//: declare N      declare the first N listeners only
//	//: private NAME   it has a private directory, NAME in the one that it starts in
//	//: optional       it needs a device or a library that machines may rightly lack: to lack it is no skip
//	//: refuse WORD: REASON    Adopt has to refuse it; a blocker's object contains WORD, and its reason REASON
//	//: engine NAME refused WORD: REASON    this engine has to, whatever others do
//	//: engine NAME private: REMARK         this engine carries it, whatever others do
//	//: engine NAME partly: REMARK          this engine carries it but for that, and the program is not run
//
// A program that stands for a feature that this kernel may lack calls svc_lack.
//
// The suite needs root, gcc and Linux. It makes no use of the network but the loopback device.
package enginetest

import (
	"os"
	"sort"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// Options adapts the suite to an engine and a machine.
type Options struct {
	// Skip maps the name of a subtest ("state/rseq") to the kernel feature that is missing on this machine.
	Skip map[string]string
	// ParkCycles is how often the dormancy tests park and activate; 0 means 1000, or 200 with
	// -test.short.
	ParkCycles int
	// Deaths is how often the engine is killed in each of the tests of its death; 0 means 50, or 10 with
	// -test.short.
	Deaths int
	// WakesOnce says that a thread of a dormant instance may be scheduled once by what it had slept for, in the kernel only,
	// to be held from then on.
	WakesOnce bool
}

// A generous bound: the machine may be busy. Nothing is asserted about time but that the suite ends.
const patience = 3 * time.Minute

type suite struct {
	newEngine func(t *testing.T) engine.Engine
	opts      Options
	build     *builder
	engine    string // its name
	outcomes  outcomes
}

// Run runs the suite: one subtest for each program and scenario, so that -run selects one. newEngine is called once in
// each subtest. The calling test must be a top-level test that does nothing else: Run starts the test binary again
// with -test.run for that test, to have an engine that can be killed.
func Run(t *testing.T, newEngine func(t *testing.T) engine.Engine, opts Options) {
	if isReaper() {
		runReaper(t)
		return
	}
	if isHelper() {
		runHelper(t, newEngine)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cycles, deaths := 1000, 50
	if testing.Short() {
		cycles, deaths = 200, 10
	}
	if opts.ParkCycles == 0 {
		opts.ParkCycles = cycles
	}
	if opts.Deaths == 0 {
		opts.Deaths = deaths
	}
	s := &suite{newEngine: newEngine, opts: opts, build: newBuilder(t), engine: newEngine(t).Name(), outcomes: outcomes{}}
	startReaper(t, s.build.dir)
	for _, dir := range programDirs {
		for _, p := range mustPrograms(t, dir) {
			s.scenario(t, dir+"/"+p.name, func(t *testing.T) { s.conforms(t, p, launch{}) })
		}
	}
	scenarios := s.scenarios()
	names := make([]string, 0, len(scenarios))
	for name := range scenarios {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		s.scenario(t, name, scenarios[name])
	}
	table, err := s.table()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(table)
}

func (s *suite) scenario(t *testing.T, name string, fn func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		if feature, ok := s.opts.Skip[name]; ok {
			t.Skipf("this machine lacks %s", feature)
		}
		fn(t)
	})
}

// conforms drives one program through the cycle, or asserts that the engine refuses it, as it declares.
func (s *suite) conforms(t *testing.T, p program, l launch) {
	if what := s.lacks(t, p); what != "" {
		s.outcomes[p.name] = "not tested: this machine lacks " + what
		t.Log(s.outcomes[p.name])
		return
	}
	e := p.expect(s.engine)
	if e.fate == partly {
		s.outcomes[p.name] = "not run: " + e.text
		t.Log(s.outcomes[p.name])
		return
	}
	s.outcomes[p.name] = "failed"
	defer func() {
		if t.Skipped() {
			s.outcomes[p.name] = "not tested: this machine lacks something"
		} else if !t.Failed() {
			s.outcomes[p.name] = "ok"
		}
	}()
	if e.fate == refused {
		s.refused(t, p, e, l)
		return
	}
	s.cycle(t, p, l)
}
