package service

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hasRoom reports whether there is room for what is merely useful in the sandbox of process pid: less than half is used of
// what its cgroups, and those above, may have of processes and memory, and a tenth of the machine's memory is available. What cannot
// be read does not limit anything.
func hasRoom(pid int) bool {
	for _, g := range limitedGroups(pid) {
		for dir := g.path; ; dir = filepath.Dir(dir) {
			limit, limited := readAmount(filepath.Join(g.root, dir, g.limit))
			used, known := readAmount(filepath.Join(g.root, dir, g.used))
			if limited && known && used > limit/2 {
				return false
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	total, available := machineMemory()
	return available >= total/10
}

// roomEvery is how long what hasRoom said is taken to hold: it reads a dozen files.
const roomEvery = 50 * time.Millisecond

// lately asks anew once what was answered is older than that. It is for one goroutine.
func lately(age time.Duration, ask func() bool) func() bool {
	var at time.Time
	var answer bool
	return func() bool {
		if now := time.Now(); at.IsZero() || now.Sub(at) > age {
			at, answer = now, ask()
		}
		return answer
	}
}

// limitedGroup is a cgroup of a process and the names of what it says about one resource.
type limitedGroup struct{ root, path, limit, used string }

const cgroupRoot = "/sys/fs/cgroup"

// limitedGroups are the cgroups that limit processes and memory of process pid.
func limitedGroups(pid int) []limitedGroup {
	text, err := os.ReadFile(procPath(pid, "cgroup"))
	if err != nil {
		return nil
	}
	var groups []limitedGroup
	for line := range strings.Lines(string(text)) { // number:controllers:path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[1] == "" {
			root := cgroupRoot
			if _, err := os.Stat(filepath.Join(root, "unified")); err == nil {
				root = filepath.Join(root, "unified")
			}
			groups = append(groups, limitedGroup{root, f[2], "pids.max", "pids.current"},
				limitedGroup{root, f[2], "memory.max", "memory.current"})
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			switch c {
			case "pids":
				groups = append(groups, limitedGroup{filepath.Join(cgroupRoot, f[1]), f[2], "pids.max", "pids.current"})
			case "memory":
				groups = append(groups, limitedGroup{filepath.Join(cgroupRoot, f[1]), f[2], "memory.limit_in_bytes", "memory.usage_in_bytes"})
			}
		}
	}
	return groups
}

// readAmount reads a number from a file; "max" is none.
func readAmount(path string) (uint64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// machineMemory is in KiB; 0, 0 if it is not known.
func machineMemory() (total, available uint64) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64) // 0 if it is none
		switch f[0] {
		case "MemTotal:":
			total = n
		case "MemAvailable:":
			available = n
		}
	}
	return total, available
}
