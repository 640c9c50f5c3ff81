package fork

import (
	"runtime"
	"testing"
)

// Threads that were made after an instance was described, and that another engine has parked, go on where they were, although
// the slots that they have are not those that they would get now.
func TestThreadsMadeLater(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	described := e.in.threadStates()
	e.must("None", `exec("import threading, time", globals())`)
	e.must("None", `exec("ends = [threading.Event() for _ in range(3)]; went = [0, 0, 0]", globals())`)
	e.must("None", `exec("def run(i):\n while not ends[i].wait(0.001): went[i] += 1", globals())`)
	e.must("None", `exec("made = [threading.Thread(target=run, args=(i,)) for i in range(3)]\nfor m in made: m.start()", globals())`)
	e.park()
	e.activate()
	e.must("None", "ends[0].set()")
	e.must("None", "made[0].join()") // its slot is free now
	e.park()

	// What another engine has done since is not known to this one.
	if err := e.in.tracee.close(); err != nil {
		t.Fatal(err)
	}
	if err := e.in.follow(described, adoptThreads); err != nil {
		t.Fatal(err)
	}
	parkInStub(t, e.in)
	e.activate()
	e.must("True", "(was := list(went)) and not time.sleep(0.2) and all(went[i] > was[i] for i in (1, 2)) and went[0] == was[0]")
	e.must("[False, True, True]", "[m.is_alive() for m in made]")
}

// parkInStub parks a dormant instance once more: none of its threads leaves the stub meanwhile.
func parkInStub(t *testing.T, in *instance) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := in.tracee.stop(0); err != nil {
		t.Fatal(err)
	}
	if err := in.parker.park(); err != nil {
		t.Fatal(err)
	}
}
