package fork

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attributes that belong to a task or a thread group rather than to what an anchor shares with it.

// affinity returns the thread's CPU mask, or "" if it is gone.
func affinity(tid int) string {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		return ""
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&set)), unsafe.Sizeof(set))
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return hex.EncodeToString(b[:n])
}

// setAffinity gives a new thread the mask. CPUs that are not allowed any more are left out by the kernel.
func setAffinity(tid int, mask string) error {
	if mask == "" || affinity(tid) == mask {
		return nil
	}
	var set unix.CPUSet
	b := unsafe.Slice((*byte)(unsafe.Pointer(&set)), unsafe.Sizeof(set))
	if _, err := hex.Decode(b, []byte(mask)); err != nil {
		return fmt.Errorf("affinity %q: %w", mask, err)
	}
	if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("thread %d: affinity: %w", tid, gone(tid, err))
	}
	return nil
}

// nice returns the thread's nice value.
func nice(tid int) int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil {
		return 0 // it is gone
	}
	return 20 - n // the system call's encoding
}

// readScheduling takes note of what belongs to a thread and not to its process.
func (s *threadState) readScheduling(tid int) {
	s.CPUs, s.Nice, s.Slack = affinity(tid), nice(tid), ""
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid)); err == nil { // else it is gone
		s.Slack = strings.TrimSpace(string(b))
	}
}

// setScheduling gives a new thread what readScheduling found.
func setScheduling(tid int, s threadState) error {
	if nice(tid) != s.Nice {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, s.Nice); err != nil {
			return fmt.Errorf("thread %d: nice value %d: %w", tid, s.Nice, gone(tid, err))
		}
	}
	if s.Slack != "" {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), []byte(s.Slack), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("thread %d: timer slack: %w", tid, err)
		}
	}
	return setAffinity(tid, s.CPUs)
}

// readLimits reads /proc/PID/limits: prlimit(2) on a foreign process would take CAP_SYS_RESOURCE.
func readLimits(pid int) ([]unix.Rlimit, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	var out []unix.Rlimit // in the order of the resources' numbers
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "Max ") || len(line) < 60 {
			continue
		}
		var v [2]uint64
		for i, f := range strings.Fields(line[26:])[:2] {
			if v[i] = unix.RLIM_INFINITY; f != "unlimited" {
				if v[i], err = strconv.ParseUint(f, 10, 64); err != nil {
					return nil, fmt.Errorf("/proc/%d/limits: %w", pid, err)
				}
			}
		}
		out = append(out, unix.Rlimit{Cur: v[0], Max: v[1]})
	}
	return out, nil
}

// copyLimits makes the anchor take over the resource limits of process from, which belong to a thread group.
func copyLimits(ctx context.Context, from int, a *anchor) error {
	want, err := readLimits(from)
	if err != nil {
		return err
	}
	have, err := readLimits(a.PID)
	if err != nil {
		return err
	}
	b := a.batch()
	for r := range min(len(want), len(have)) {
		if want[r] != have[r] {
			v := binary.LittleEndian.AppendUint64(nil, want[r].Cur)
			b.call(unix.SYS_PRLIMIT64, 0, r, b.put(binary.LittleEndian.AppendUint64(v, want[r].Max), 8), 0)
		}
	}
	if _, err := a.exec(ctx, b); err != nil {
		return fmt.Errorf("resource limits: %w", err)
	}
	return nil
}
