package check

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// status is what /proc/PID/status or /proc/PID/task/TID/status says. Fields that the kernel does not print stay zero.
type status struct {
	name           string
	state          byte // R, S, D, T, t, Z, X, I
	tgid           int
	tracer         int
	nspid          []int // as seen from each nested pid namespace, the caller's first
	threads        int
	kernelThread   bool
	resident       int64 // bytes
	locked         int64 // bytes
	hugetlb        int64 // bytes
	uids, gids     string
	capEff         uint64
	pending        uint64 // of this thread
	processPending uint64
	blocked        uint64
	seccomp        int // 0 none, 1 strict, 2 filter
	seccompFilters int
	threadFeatures string // x86_Thread_features
}

// Capability numbers of linux/capability.h that decide what may be done to a process.
const (
	capSysPtrace         = 19
	capSysAdmin          = 21
	capSysResource       = 24
	capCheckpointRestore = 40
)

func (s *status) can(capability uint) bool { return s.capEff&(1<<capability) != 0 }

func readStatus(path string) (status, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return status{}, err
	}
	var s status
	for line := range strings.Lines(string(data)) {
		key, value, found := strings.Cut(line, ":")
		if !found {
			continue
		}
		if err := s.set(key, strings.TrimSpace(value)); err != nil {
			return status{}, fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	return s, nil
}

func (s *status) set(key, value string) (err error) {
	switch key {
	case "Name":
		s.name = value
	case "State":
		if value != "" {
			s.state = value[0]
		}
	case "Tgid":
		s.tgid, err = strconv.Atoi(value)
	case "TracerPid":
		s.tracer, err = strconv.Atoi(value)
	case "NSpid":
		s.nspid, err = numbers(value)
	case "Threads":
		s.threads, err = strconv.Atoi(value)
	case "Kthread":
		s.kernelThread = value == "1"
	case "VmRSS":
		s.resident, err = kibibytes(value)
	case "VmLck":
		s.locked, err = kibibytes(value)
	case "HugetlbPages":
		s.hugetlb, err = kibibytes(value)
	case "Uid":
		s.uids = value
	case "Gid":
		s.gids = value
	case "CapEff":
		s.capEff, err = strconv.ParseUint(value, 16, 64)
	case "SigPnd":
		s.pending, err = strconv.ParseUint(value, 16, 64)
	case "ShdPnd":
		s.processPending, err = strconv.ParseUint(value, 16, 64)
	case "SigBlk":
		s.blocked, err = strconv.ParseUint(value, 16, 64)
	case "Seccomp":
		s.seccomp, err = strconv.Atoi(value)
	case "Seccomp_filters":
		s.seccompFilters, err = strconv.Atoi(value)
	case "x86_Thread_features":
		s.threadFeatures = value
	}
	return err
}

func numbers(s string) ([]int, error) {
	var list []int
	for field := range strings.FieldsSeq(s) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return slices.Clip(list), nil
}

// kibibytes turns "12 kB" into 12288.
func kibibytes(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(s, "kB")), 10, 64)
	return n * 1024, err
}
