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
//	//: park any       one of its threads never waits, so that it is parked at any instruction
//	//: listen KIND,…  its listeners, unix or tcp; one unix listener if left out
//	//: declare N      declare the first N listeners only
//	//: refuse WORD    Adopt has to refuse it, and a blocker's object has to contain WORD
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
	// Refuses maps the name of a state program ("epoll-stale") to a word. The engine refuses that program by name,
	// and one of the blockers' objects contains the word; the suite asserts the refusal instead of the state. "init"
	// stands for a service that is pid 1 of its pid namespace.
	Refuses map[string]string
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
	s := &suite{newEngine: newEngine, opts: opts, build: newBuilder(t)}
	startReaper(t, s.build.dir)
	for _, p := range mustPrograms(t, "state") {
		s.scenario(t, "state/"+p.name, func(t *testing.T) { s.state(t, p) })
	}
	for _, p := range mustPrograms(t, "refuse") {
		s.scenario(t, "refuse/"+p.name, func(t *testing.T) { s.refused(t, p) })
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
}

func (s *suite) scenario(t *testing.T, name string, fn func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		if feature, ok := s.opts.Skip[name]; ok {
			t.Skipf("this machine lacks %s", feature)
		}
		fn(t)
	})
}

// state drives one state program through the cycle, or asserts that the engine refuses it.
func (s *suite) state(t *testing.T, p program) {
	if word, ok := s.opts.Refuses[p.name]; ok {
		p.refuse = word
		s.refused(t, p)
		return
	}
	s.cycle(t, p, launch{})
}
