package measure

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is the machine that the figures are of.
type Host struct {
	Kernel    string `json:"kernel"`
	CPUs      int    `json:"cpus"`
	Model     string `json:"model"`
	Load      string `json:"load"`      // load averages when the run began
	HugePages string `json:"hugePages"` // transparent huge pages of anonymous memory
}

func host() (Host, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Host{}, fmt.Errorf("uname: %w", err)
	}
	h := Host{Kernel: "Linux " + unix.ByteSliceToString(u.Release[:]), CPUs: runtime.NumCPU(), Model: runtime.GOARCH}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return h, err
	}
	h.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	// A kernel without huge pages has no such file.
	if b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); err == nil {
		_, rest, _ := strings.Cut(string(b), "[")
		h.HugePages, _, _ = strings.Cut(rest, "]")
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			h.Model = strings.TrimSpace(value)
			break
		}
	}
	return h, nil
}

// available is the kernel's MemAvailable in bytes.
func available() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo: no MemAvailable")
}

// affinity keeps the CPUs that we may use. Its methods are called from one locked thread.
type affinity struct{ all, one unix.CPUSet }

func newAffinity() (*affinity, error) {
	a := &affinity{}
	if err := unix.SchedGetaffinity(0, &a.all); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	// The last one: interrupts go to the first more often.
	for cpu := range len(a.all) * 64 {
		if a.all.IsSet(cpu) {
			a.one.Zero()
			a.one.Set(cpu)
		}
	}
	return a, nil
}

func (a *affinity) set(cpu string) *unix.CPUSet {
	if cpu == PinnedCPU {
		return &a.one
	}
	return &a.all
}

// self moves the calling thread, and with it the programs that it starts.
func (a *affinity) self(cpu string) error {
	if err := unix.SchedSetaffinity(0, a.set(cpu)); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	return nil
}

// process moves all threads of another process.
func (a *affinity) process(cpu string, pid int) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, a.set(cpu)); err != nil {
			return fmt.Errorf("sched_setaffinity of thread %d: %w", tid, err)
		}
	}
	return nil
}
