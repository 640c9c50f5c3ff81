package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The legal values, as error messages and help texts show them.
const (
	LegalEngine       = "auto, fork, kmod"
	LegalGate         = "socket, binder"
	LegalAppKey       = "uid, pid, cgroup, connection"
	LegalConcurrency  = "strict, parallel"
	LegalPath         = "auto, connect, handover, proxied"
	LegalTimers       = "off, on, DURATION (no more often than that; such as 1s)"
	LegalCheckpoint   = "every, every=N (N at least 1), interval=DURATION (such as 500ms or 10s), manual"
	LegalCrash        = "restore, retry=N (N at least 1), stop"
	LegalHistory      = "a number, at least 1"
	LegalHugePages    = "auto, on, off"
	LegalSpares       = "a number, 0 to 64"
	LegalInstances    = "a number; 0 means no limit"
	LegalHistoryBytes = "a number of bytes, optionally with K, M, G or T (powers of 1024); 0 means no limit"
	LegalCrashReply   = `text with the escapes \r \n \t \0 \xHH \\`
)

// MinInterval is the shortest interval between checkpoints that is accepted. A shorter one would keep a service
// in the middle of a checkpoint all the time.
const MinInterval = time.Millisecond

// ParseCheckpointPolicy reads "every", "every=N", "interval=DURATION" or "manual".
func ParseCheckpointPolicy(s string) (CheckpointPolicy, error) {
	mode, arg, has := strings.Cut(s, "=")
	switch CheckpointMode(mode) {
	case CheckpointEvery:
		if !has {
			return CheckpointPolicy{Mode: CheckpointEvery, N: 1}, nil
		}
		n, err := parseCount(arg)
		if err != nil {
			return CheckpointPolicy{}, bad(LegalCheckpoint, "%q is not a number of transactions: %v", arg, err)
		}
		return CheckpointPolicy{Mode: CheckpointEvery, N: n}, nil
	case CheckpointInterval:
		d, err := time.ParseDuration(arg)
		if err != nil {
			return CheckpointPolicy{}, bad(LegalCheckpoint, "%q is not a duration", arg)
		}
		if d < MinInterval {
			return CheckpointPolicy{}, bad(LegalCheckpoint, "an interval of %v is shorter than %v", d, MinInterval)
		}
		return CheckpointPolicy{Mode: CheckpointInterval, Interval: d}, nil
	case CheckpointManual:
		if !has {
			return CheckpointPolicy{Mode: CheckpointManual}, nil
		}
	}
	return CheckpointPolicy{}, bad(LegalCheckpoint, "%q is not a checkpoint policy", s)
}

// String is the form that ParseCheckpointPolicy reads.
func (p CheckpointPolicy) String() string {
	switch {
	case p.Mode == CheckpointEvery && p.N != 1:
		return fmt.Sprintf("every=%d", p.N)
	case p.Mode == CheckpointInterval:
		return "interval=" + p.Interval.String()
	}
	return string(p.Mode)
}

// ParseCrashPolicy reads "restore", "retry=N" or "stop".
func ParseCrashPolicy(s string) (CrashPolicy, error) {
	mode, arg, has := strings.Cut(s, "=")
	switch CrashMode(mode) {
	case CrashRestore, CrashStop:
		if !has {
			return CrashPolicy{Mode: CrashMode(mode)}, nil
		}
	case CrashRetry:
		if !has {
			return CrashPolicy{}, bad(LegalCrash, "retry needs a number of attempts")
		}
		n, err := parseCount(arg)
		if err != nil {
			return CrashPolicy{}, bad(LegalCrash, "%q is not a number of attempts: %v", arg, err)
		}
		return CrashPolicy{Mode: CrashRetry, Retries: n}, nil
	}
	return CrashPolicy{}, bad(LegalCrash, "%q is not a crash policy", s)
}

// String is the form that ParseCrashPolicy reads.
func (p CrashPolicy) String() string {
	if p.Mode == CrashRetry {
		return fmt.Sprintf("retry=%d", p.Retries)
	}
	return string(p.Mode)
}

// ParseAppKey reads "uid", "pid", "cgroup" or "connection".
func ParseAppKey(s string) (AppKey, error) {
	k := AppKey(s)
	if slices.Contains([]AppKey{AppKeyUID, AppKeyPID, AppKeyCgroup, AppKeyConnection}, k) {
		return k, nil
	}
	return "", bad(LegalAppKey, "%q is not an app key", s)
}

// ParseConcurrency reads "strict" or "parallel".
func ParseConcurrency(s string) (Concurrency, error) {
	if c := Concurrency(s); c == Strict || c == Parallel {
		return c, nil
	}
	return "", bad(LegalConcurrency, "%q is not a kind of concurrency", s)
}

// ParseEngine reads the name of an engine.
func ParseEngine(s string) (string, error) {
	if s == "auto" || s == "fork" || s == "kmod" {
		return s, nil
	}
	return "", bad(LegalEngine, "there is no engine %q", s)
}

// ParseGate reads the name of a gate.
func ParseGate(s string) (string, error) {
	if s == GateSocket || s == GateBinder {
		return s, nil
	}
	return "", bad(LegalGate, "there is no gate %q", s)
}

// ParseHistory reads how many checkpoints are kept per app.
func ParseHistory(s string) (int, error) {
	n, err := parseCount(s)
	if err != nil {
		return 0, bad(LegalHistory, "%q is not a number of checkpoints: %v", s, err)
	}
	return n, nil
}

// ParseInstances reads how many apps may have an instance at a time; 0: all.
func ParseInstances(s string) (int, error) {
	if s == "0" {
		return 0, nil
	}
	n, err := parseCount(s)
	if err != nil {
		return 0, bad(LegalInstances, "%q is not a number of instances: %v", s, err)
	}
	return n, nil
}

// ParseBytes reads an amount of memory in bytes: a plain number, or one with K, M, G or T for powers of 1024
// ("64M"; "64MiB" and "64MB" mean the same).
func ParseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "KkMmGgTtIiBb")
	unit := strings.ToLower(s[len(digits):])
	if len(unit) == 3 {
		unit = strings.TrimSuffix(unit, "ib")
	} else if len(unit) == 2 {
		unit = strings.TrimSuffix(unit, "b")
	}
	shift, known := map[string]uint{"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit]
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || !known {
		return 0, bad(LegalHistoryBytes, "%q is not an amount of memory", s)
	}
	if n > (1<<63-1)>>shift {
		return 0, bad(LegalHistoryBytes, "%q does not fit in 63 bits", s)
	}
	return int64(n) << shift, nil
}

// parseCount reads a decimal number from 1 to 2^31-1.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	switch {
	case err != nil && s == "":
		return 0, fmt.Errorf("it is empty")
	case err != nil:
		return 0, fmt.Errorf("want decimal digits, at most %d", 1<<31-1)
	case n < 1:
		return 0, fmt.Errorf("it is less than 1")
	}
	return int(n), nil
}
