package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// ErrLimit says that a limit of the machine, of the service's cgroup or of the monitor kept an instance or a checkpoint from
// being made.
var ErrLimit = errors.New("a limit is reached")

const (
	// reservedPIDs are those that the kernel does not give away when it begins anew after the highest.
	reservedPIDs = 300
	// beside is what an instance has besides the threads of the service: its anchor and the first process of its pid namespace.
	beside = 2
	// enoughFiles is how many open files the monitor may have if it can have its way.
	enoughFiles = 1 << 20
)

// limit is one that may be reached.
type limit struct {
	name        string
	value, used uint64
	unit        string
	need        string // what is to be made takes so much
	way         string
}

func (l limit) Error() string {
	return fmt.Sprintf("%v: %s is %d, and %d %s are in use; %s; way out: %s", ErrLimit, l.name, l.value, l.used, l.unit, l.need, l.way)
}

// Is makes errors.Is(err, ErrLimit) true.
func (l limit) Is(target error) bool { return target == ErrLimit }

// nameLimit adds to err, for which an instance or a checkpoint could not be made, the limit that is in the way; if there is
// none, or if err says what was wrong itself, it returns err.
func (m *Monitor) nameLimit(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, engine.ErrGone) || errors.Is(err, engine.ErrRefused) || errors.Is(err, engine.ErrBusy) {
		return err
	}
	if l, ok := reachedLimit(m.rec.PID, err); ok {
		return fmt.Errorf("%w (%w)", l, err)
	}
	return err
}

// reachedLimit finds the limit that keeps another instance of the service with process pid from being made; err is how that
// failed.
func reachedLimit(pid int, err error) (limit, bool) {
	threads := statusNumber(pid, "Threads:")
	need := threads + beside
	takes := fmt.Sprintf("an instance takes %d processes", need)
	for _, find := range []func() (limit, bool){
		func() (limit, bool) { return reachedPIDs(pid, need, takes) },
		func() (limit, bool) { return reachedTasks(need, takes) },
		func() (limit, bool) { return reachedUser(pid, need, takes) },
		func() (limit, bool) { return reachedFiles(err) },
		func() (limit, bool) { return reachedMappings(pid) },
		func() (limit, bool) { return reachedMemory(pid) },
	} {
		if l, ok := find(); ok {
			return l, true
		}
	}
	return limit{}, false
}

// reachedPIDs looks at the cgroups' limits of processes.
func reachedPIDs(pid int, need uint64, takes string) (limit, bool) {
	for _, g := range limitedGroups(pid) {
		if g.limit != "pids.max" {
			continue
		}
		for dir := g.path; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			file := filepath.Join(g.root, dir, g.limit)
			most, limited := readAmount(file)
			used, known := readAmount(filepath.Join(g.root, dir, g.used))
			if limited && known && used+need > most {
				return limit{
					file, most, used, "processes", takes,
					fmt.Sprintf("`echo %d >%s`, or a larger linux.resources.pids.limit in the bundle, or fewer apps (--instances)", atLeast(used+100*need), file),
				}, true
			}
		}
	}
	return limit{}, false
}

// reachedTasks looks at the limits of the whole machine.
func reachedTasks(need uint64, takes string) (limit, bool) {
	text, err := os.ReadFile("/proc/loadavg") // 0.00 0.01 0.05 1/123 4567
	if err != nil {
		return limit{}, false
	}
	var used uint64
	if f := strings.Fields(string(text)); len(f) > 3 {
		_, total, _ := strings.Cut(f[3], "/")
		used, _ = strconv.ParseUint(total, 10, 64) // 0 if it is none
	}
	for _, l := range []struct {
		name     string
		reserved uint64
	}{{"kernel.pid_max", reservedPIDs}, {"kernel.threads-max", 0}} {
		most, ok := readAmount(filepath.Join("/proc/sys", strings.ReplaceAll(l.name, ".", "/")))
		if ok && used+need+l.reserved > most {
			raised := min(atLeast(most*4), 4<<20)
			return limit{l.name, most, used, "processes and threads", takes, fmt.Sprintf("`sysctl -w %s=%d`, or fewer apps (--instances)", l.name, raised)}, true
		}
	}
	return limit{}, false
}

// reachedUser looks at what the user that the service runs as may have. It does not bind root.
func reachedUser(pid int, need uint64, takes string) (limit, bool) {
	most, ok := processLimit(pid, "Max processes")
	uid := statusNumber(pid, "Uid:")
	if !ok || uid == 0 {
		return limit{}, false
	}
	procs, err := filepath.Glob("/proc/[0-9]*/task")
	if err != nil {
		return limit{}, false
	}
	var used uint64
	for _, dir := range procs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil && uint64(st.Uid) == uid && st.Nlink > 2 {
			used += st.Nlink - 2
		}
	}
	if used+need <= most {
		return limit{}, false
	}
	return limit{
		fmt.Sprintf("RLIMIT_NPROC of user %d", uid), most, used, "processes and threads", takes,
		fmt.Sprintf("`prlimit --pid %d --nproc=%d:`, or a process.rlimits entry in the bundle", pid, atLeast(used+100*need)),
	}, true
}

// reachedFiles looks at this process' open files, and at the machine's.
func reachedFiles(err error) (limit, bool) {
	var l unix.Rlimit
	names, e := os.ReadDir("/proc/self/fd")
	if e = errors.Join(e, unix.Getrlimit(unix.RLIMIT_NOFILE, &l)); e == nil || errors.Is(err, unix.EMFILE) {
		if used := uint64(len(names)); errors.Is(err, unix.EMFILE) || used+16 > l.Cur {
			return limit{
				"RLIMIT_NOFILE of the monitor", l.Cur, used, "descriptors", "an app with a connection takes 7, and some for each thread of its instance",
				fmt.Sprintf("`prlimit --pid %d --nofile=%d:%d`", os.Getpid(), enoughFiles, enoughFiles),
			}, true
		}
	}
	text, e := os.ReadFile("/proc/sys/fs/file-nr") // used, free, most
	f := strings.Fields(string(text))
	if e != nil || len(f) < 3 || !errors.Is(err, unix.ENFILE) {
		return limit{}, false
	}
	used, _ := strconv.ParseUint(f[0], 10, 64) // the kernel writes numbers
	most, _ := strconv.ParseUint(f[2], 10, 64)
	return limit{"fs.file-max", most, used, "open files", "an instance opens some", fmt.Sprintf("`sysctl -w fs.file-max=%d`", atLeast(4*most))}, true
}

// reachedMappings looks at how many mappings the service has.
func reachedMappings(pid int) (limit, bool) {
	most, ok := readAmount("/proc/sys/vm/max_map_count")
	text, err := os.ReadFile(procPath(pid, "maps"))
	used := uint64(strings.Count(string(text), "\n"))
	if err != nil || !ok || used+16 <= most {
		return limit{}, false
	}
	return limit{
		"vm.max_map_count", most, used, "mappings of the service", "corsa adds up to 16", fmt.Sprintf("`sysctl -w vm.max_map_count=%d`", atLeast(2*most)),
	}, true
}

// reachedMemory looks at the cgroups' limits of memory.
func reachedMemory(pid int) (limit, bool) {
	for _, g := range limitedGroups(pid) {
		if !strings.HasPrefix(g.used, "memory.") {
			continue
		}
		for dir := g.path; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			file := filepath.Join(g.root, dir, g.limit)
			most, limited := readAmount(file)
			used, known := readAmount(filepath.Join(g.root, dir, g.used))
			if limited && known && used > most-most/32 {
				return limit{
					file, most, used, "bytes", "an instance takes what it writes to, page tables and stacks",
					fmt.Sprintf("`echo %d >%s`, or --memory-budget below it, which evicts idle apps in time", atLeast(2*most), file),
				}, true
			}
		}
	}
	return limit{}, false
}

// atLeast rounds n up to a power of two, which is easier to read and to type.
func atLeast(n uint64) uint64 {
	p := uint64(1)
	for p < n && p < 1<<62 {
		p <<= 1
	}
	return p
}

// statusNumber is the first number of a line of /proc/PID/status; 0 if there is none.
func statusNumber(pid int, name string) uint64 {
	text, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, _ := strconv.ParseUint(f[1], 10, 64) // 0 if it is none
			return n
		}
	}
	return 0
}

// processLimit is the soft limit of that name in /proc/PID/limits; false: there is none.
func processLimit(pid int, name string) (uint64, bool) {
	text, err := os.ReadFile(procPath(pid, "limits"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, err := strconv.ParseUint(f[0], 10, 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}

// raiseOwnLimits lets this process have as many descriptors as it may give itself: each app takes some. Without
// CAP_SYS_RESOURCE that is its hard limit.
func raiseOwnLimits() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	most := uint64(enoughFiles)
	if n, ok := readAmount("/proc/sys/fs/nr_open"); ok {
		most = min(most, n)
	}
	if l.Max < most && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}) == nil {
		return nil
	}
	if l.Cur >= l.Max {
		return nil
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	return nil
}
