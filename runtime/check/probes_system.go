package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
)

var systemTests = []test{
	{Probe{
		Name: "cgroups", Tests: "are cgroups mounted, and in which mode", UsefulFor: "limits of services, --app-key cgroup",
		WayOut: "mount cgroup2 on /sys/fs/cgroup",
	}, testCgroups},
	{Probe{
		Name: "cgroup-freezer", Tests: "can a cgroup be frozen", UsefulFor: "corsa pause", LeastKernel: "5.2",
		WayOut: "use Linux 5.2 or later with cgroup2, or mount the freezer hierarchy of cgroup v1",
	}, testFreezer},
	{Probe{
		Name: "corsa-ko", Tests: "is the kernel module loaded, in a version that this program speaks", RequiredBy: []string{EngineKmod},
		WayOut: "build and load corsa.ko (kmod/); the fork engine does without it",
	}, testModule},
	{Probe{
		Name: "binderfs", Tests: "does the kernel have Binder, and a file system of its devices for each sandbox", UsefulFor: "Binder services",
		LeastKernel: "5.0", WayOut: "use a kernel with CONFIG_ANDROID_BINDERFS",
	}, testBinder},
	{Probe{
		Name: "binder-gate", Tests: "can corsa.ko stand before Binder services", UsefulFor: "private instances of Binder services",
		WayOut: "build corsa.ko with CORSA_BINDER_HEADERS (kmod/) and load it when Binder is there",
	}, testBinderGate},
}

var capacityTests = []test{
	{Probe{
		Name: "pid-max", Tests: "are there process ids for many instances", UsefulFor: "more than some thousand instances",
		WayOut: "sysctl kernel.pid_max=4194304",
	}, atLeast("/proc/sys/kernel/pid_max", 1<<17, "each thread of each instance and checkpoint takes one id")},
	{Probe{
		Name: "threads-max", Tests: "does the kernel allow many threads", UsefulFor: "more than some thousand instances",
		WayOut: "sysctl kernel.threads-max=1000000",
	}, atLeast("/proc/sys/kernel/threads-max", 1<<17, "each thread of each instance and checkpoint counts")},
	{Probe{
		Name: "max-map-count", Tests: "may a process have many mappings", UsefulFor: "large services",
		WayOut: "sysctl vm.max_map_count=1048576",
	}, atLeast("/proc/sys/vm/max_map_count", 65530, "of one process")},
	{Probe{
		Name: "rlimit-nproc", Tests: "may the user have many processes", UsefulFor: "more than some thousand instances",
		WayOut: "raise it: ulimit -u unlimited, or LimitNPROC= of the unit",
	}, limit(unix.RLIMIT_NPROC, 1<<15)},
	{Probe{
		Name: "rlimit-nofile", Tests: "may corsa have many open files", UsefulFor: "more than some thousand connections",
		WayOut: "raise it: ulimit -Hn 1048576, or LimitNOFILE= of the unit",
	}, limit(unix.RLIMIT_NOFILE, 1<<16)},
}

func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

func atLeast(path string, enough int64, why string) func() (string, error) {
	return func() (string, error) {
		n, err := readNumber(path)
		if err != nil {
			return "", err
		}
		if n < enough {
			return "", absent("%d; %s", n, why)
		}
		return strconv.FormatInt(n, 10), nil
	}
}

// limit looks at the hard limit: the soft one is raised to it when needed.
func limit(resource int, enough uint64) func() (string, error) {
	return func() (string, error) {
		var r unix.Rlimit
		if err := unix.Getrlimit(resource, &r); err != nil {
			return "", err
		}
		if r.Max == unix.RLIM_INFINITY {
			return "unlimited", nil
		}
		if r.Max < enough {
			return "", absent("%d at most", r.Max)
		}
		return fmt.Sprintf("%d at most", r.Max), nil
	}
}

// cgroup2Mount is where the unified hierarchy is, in pure and in hybrid mode; "" if nowhere.
func cgroup2Mount() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

func testCgroups() (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); errors.Is(err, unix.ENOENT) {
		return "", absent("/sys/fs/cgroup: %v", err)
	} else if err != nil {
		return "", fmt.Errorf("/sys/fs/cgroup: %w", err)
	}
	switch mount := cgroup2Mount(); {
	case mount == "/sys/fs/cgroup":
		return "v2", nil
	case mount != "":
		return "hybrid: v1 with cgroup2 on " + mount, nil
	case st.Type == unix.TMPFS_MAGIC:
		return "v1", nil
	}
	return "", absent("/sys/fs/cgroup is neither cgroup2 nor a place of v1 hierarchies")
}

func testFreezer() (string, error) {
	var st unix.Statfs_t
	const dir = "/sys/fs/cgroup/freezer"
	if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
		return "v1, on " + dir, nil
	}
	mount := cgroup2Mount()
	if mount == "" {
		return "", absent("no cgroup2 and no freezer of v1 is mounted")
	}
	// The root group has no such file, any other has.
	files, err := filepath.Glob(mount + "/*/cgroup.freeze")
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", errors.New("there is no cgroup to look at")
	}
	return "v2", nil
}

func testModule() (string, error) {
	switch p := client.Probe(); p.Result {
	case client.Yes:
		return p.Detail, nil
	case client.No:
		return "", absent("%s", p.Detail)
	default:
		return "", errors.New(p.Detail)
	}
}

// vectorExtensions names those that make the processor state large.
func vectorExtensions() string {
	var list []string
	for _, e := range []struct {
		name string
		has  bool
	}{{"AVX", cpu.X86.HasAVX}, {"AVX-512", cpu.X86.HasAVX512F}, {"AMX", cpu.X86.HasAMXTile}} {
		if e.has {
			list = append(list, e.name)
		}
	}
	return strings.Join(list, ", ")
}
