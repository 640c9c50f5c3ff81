package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namesCPUs tells whether the bundle itself says where the container runs.
func namesCPUs(spec *specs.Spec) bool {
	r := spec.Linux.Resources
	return r != nil && r.CPU != nil && r.CPU.Cpus != ""
}

// pin gives all threads of the process pid the CPUs in set. libcontainer has given its first process all CPUs, as runc
// does; what that process executes inherits the CPUs of whichever of its threads does so.
func pin(pid int, set *unix.CPUSet) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	done := map[string]bool{}
	// A thread that is born meanwhile has those of its parent, set already or not: look until there is no new one.
	for again := true; again; {
		tasks, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("set the CPUs of process %d: %w", pid, err)
		}
		again = false
		for _, t := range tasks {
			if done[t.Name()] {
				continue
			}
			done[t.Name()], again = true, true
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			if err := unix.SchedSetaffinity(tid, set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set the CPUs of thread %d: %w", tid, err)
			}
		}
	}
	return nil
}
