package fork

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// identity names a process beyond the reuse of its pid.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// identify reads who pid is now.
func identify(pid int) (identity, error) {
	f, err := statFields(pid)
	if err != nil {
		return identity{}, err
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return identity{pid, start}, nil
}

// verify gives engine.ErrGone if the process is not the one that was identified.
func (id identity) verify() error {
	now, err := identify(id.PID)
	if err != nil {
		return err
	}
	if now != id {
		return fmt.Errorf("process %d: %w", id.PID, engine.ErrGone)
	}
	return nil
}

// statFields returns the fields of /proc/PID/stat from the third, the state, on.
func statFields(pid int) ([]string, error) {
	b, err := readProc(fmt.Sprintf("/proc/%d/stat", pid), nil)
	if err != nil {
		return nil, gone(pid, err)
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return nil, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 50 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return f, nil
}

// exitStatus reads how a process that has not been reaped yet ended.
func exitStatus(pid int) (engine.Exit, error) {
	f, err := statFields(pid)
	if err != nil {
		return engine.Exit{}, err
	}
	code, err := strconv.Atoi(f[49])
	if err != nil {
		return engine.Exit{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	ws := unix.WaitStatus(code)
	if ws.Signaled() {
		return engine.Exit{Code: -1, Signal: int(ws.Signal())}, nil
	}
	return engine.Exit{Code: ws.ExitStatus()}, nil
}

// innerTID is the thread's id in its innermost pid namespace.
func innerTID(pid, tid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return 0, gone(tid, err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(v)
			return strconv.Atoi(f[len(f)-1])
		}
	}
	return 0, fmt.Errorf("/proc/%d/task/%d/status has no NSpid", pid, tid)
}

// mapping is one line of /proc/PID/maps.
type mapping struct {
	Start, End uint64
	Perms      string
	Path       string
}

func (m mapping) sharedAnonymous() bool {
	return m.Perms[3] == 's' && strings.HasPrefix(m.Path, zeroLink)
}

func readMaps(pid int) ([]mapping, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	var out []mapping
	for line := range strings.Lines(string(b)) {
		m, err := parseMapping(line)
		if err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: %w", pid, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func parseMapping(line string) (m mapping, err error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return m, fmt.Errorf("malformed line %q", line)
	}
	lo, hi, _ := strings.Cut(f[0], "-")
	if m.Start, err = strconv.ParseUint(lo, 16, 64); err != nil {
		return m, err
	}
	if m.End, err = strconv.ParseUint(hi, 16, 64); err != nil {
		return m, err
	}
	m.Perms = f[1]
	if len(f) > 5 {
		m.Path = strings.Join(f[5:], " ")
	}
	return m, nil
}

// memory reads /proc/PID/smaps_rollup.
func memory(pid int) (engine.Memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return engine.Memory{}, gone(pid, err)
	}
	var m engine.Memory
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return engine.Memory{}, fmt.Errorf("/proc/%d/smaps_rollup: %w", pid, err)
		}
		switch f[0] {
		case "Rss:":
			m.Resident = kb << 10
		case "AnonHugePages:":
			m.Huge = kb << 10
		case "Private_Clean:", "Private_Dirty:":
			m.Unique += kb << 10
		}
	}
	m.Shared = m.Resident - m.Unique
	return m, nil
}

// effectiveCaps reads the effective capabilities of a process.
func effectiveCaps(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, gone(pid, err)
	}
	return strconv.ParseUint(field(b, "CapEff"), 16, 64)
}

// isDead reports whether the process has ended, reaped or not.
func isDead(pid int) bool {
	f, err := statFields(pid)
	return err != nil || f[0] == "Z" || f[0] == "X"
}
