package fork

import (
	"bytes"
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
	return maskText(unsafe.Slice((*byte)(unsafe.Pointer(&set)), unsafe.Sizeof(set)))
}

func maskText(mask []byte) string { return hex.EncodeToString(bytes.TrimRight(mask, "\x00")) }

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

// scheduling is the same by what the thread itself said.
func (s *threadState) scheduling(c *capture) {
	s.CPUs, s.Nice, s.Slack = maskText(c.cpus[:]), 0, ""
	if c.nice > 0 {
		s.Nice = 20 - int(c.nice)
	}
	if c.slack > 0 {
		s.Slack = strconv.FormatInt(c.slack, 10)
	}
}

// setScheduling gives a new thread what readScheduling found. inherited is the timer slack that it has.
func setScheduling(tid int, s threadState, inherited string) error {
	if nice(tid) != s.Nice {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, s.Nice); err != nil {
			return fmt.Errorf("thread %d: nice value %d: %w", tid, s.Nice, gone(tid, err))
		}
	}
	if s.Slack != "" && s.Slack != inherited {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), []byte(s.Slack), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("thread %d: timer slack: %w", tid, err)
		}
	}
	return setAffinity(tid, s.CPUs)
}

// timerSlack is that of the anchor, which whatever it makes inherits, or "" if it cannot be told. It never changes.
func (a *anchor) timerSlack() string {
	if a.slack == "" {
		if b, err := readProc(fmt.Sprintf("/proc/%d/timerslack_ns", a.PID), nil); err == nil {
			a.slack = strings.TrimSpace(string(b))
		}
	}
	return a.slack
}

// limitsText reads /proc/PID/limits: prlimit(2) on a foreign process would take CAP_SYS_RESOURCE.
func limitsText(pid int) ([]byte, error) {
	p := procFiles{pid: pid}
	defer p.close()
	return p.limitsText()
}

func (p *procFiles) limitsText() ([]byte, error) {
	b, err := p.read(procLimits, make([]byte, 0, 2048))
	return b, gone(p.pid, err)
}

func parseLimits(text []byte) (out []unix.Rlimit, err error) {
	for line := range strings.Lines(string(text)) { // in the order of the resources' numbers
		if !strings.HasPrefix(line, "Max ") || len(line) < 60 {
			continue
		}
		var v [2]uint64
		for i, f := range strings.Fields(line[26:])[:2] {
			if v[i] = unix.RLIM_INFINITY; f != "unlimited" {
				if v[i], err = strconv.ParseUint(f, 10, 64); err != nil {
					return nil, fmt.Errorf("resource limits: %w", err)
				}
			}
		}
		out = append(out, unix.Rlimit{Cur: v[0], Max: v[1]})
	}
	return out, nil
}

// readProc reads a file of /proc into buf, if that is large enough.
func readProc(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if cap(buf) == 0 {
		buf = make([]byte, 0, 4096)
	}
	for buf = buf[:0]; ; {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return buf, err
		}
		buf = buf[:len(buf)+n]
	}
}

// limit gives the anchor resource limits, which belong to a thread group: text is another process' /proc/PID/limits.
func (a *anchor) limit(ctx context.Context, text []byte) error {
	if a.limits == nil {
		var err error
		if a.limits, err = limitsText(a.PID); err != nil {
			return err
		}
	}
	if bytes.Equal(a.limits, text) {
		return nil
	}
	want, err := parseLimits(text)
	if err != nil {
		return err
	}
	have, err := parseLimits(a.limits)
	if err != nil {
		return err
	}
	a.limits = nil
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
