package spec

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// keptCapabilities are what a host program that runs as root keeps of the caller's capabilities, with the number
// that the kernel gives them. All others are dropped: those that reach past the sandbox into the host (modules,
// raw I/O, the clock, reboot, devices, BPF and tracing, network configuration, opening files by handle) and
// CAP_SYS_PTRACE, by which the instance of one app could read that of another.
var keptCapabilities = []struct {
	name   string
	bit    uint
	reason string
}{
	{"CAP_SYS_ADMIN", 21, "the fork engine enters the pid namespace of a new instance with the service's credentials; without it instances have new pids"},
	{"CAP_CHECKPOINT_RESTORE", 40, "the fork engine chooses the pids and tids of a new instance; without it they differ from those of the base"},
	{"CAP_CHOWN", 0, "daemons give their files to the user they serve"},
	{"CAP_DAC_OVERRIDE", 1, "root's usual access to files"},
	{"CAP_FOWNER", 3, "root's usual access to files"},
	{"CAP_FSETID", 4, "root's usual access to files"},
	{"CAP_KILL", 5, "masters signal workers that run as another user"},
	{"CAP_SETGID", 6, "daemons drop to a user of their own"},
	{"CAP_SETUID", 7, "daemons drop to a user of their own"},
	{"CAP_SETPCAP", 8, "daemons drop capabilities"},
	{"CAP_NET_BIND_SERVICE", 10, "ports below 1024"},
	{"CAP_IPC_LOCK", 14, "daemons lock secrets and buffers in memory"},
	{"CAP_SYS_CHROOT", 18, "daemons confine themselves"},
	{"CAP_SYS_NICE", 23, "daemons set priorities and CPU affinity"},
	{"CAP_SYS_RESOURCE", 24, "daemons raise their own limits, such as that of open files"},
	{"CAP_LEASE", 28, "file servers"},
	{"CAP_AUDIT_WRITE", 29, "login daemons"},
}

// hostCapabilities are those of a program run as uid by a caller with the permitted set permitted (bit N is
// capability N). A user other than root gets none: for it they would have to be ambient, which hands
// CAP_SYS_ADMIN to programs that were given a plain user on purpose. The engine then falls back to new pids.
func hostCapabilities(uid uint32, permitted uint64) *specs.LinuxCapabilities {
	var names []string
	for _, c := range keptCapabilities {
		if uid == 0 && permitted&(1<<c.bit) != 0 {
			names = append(names, c.name)
		}
	}
	slices.Sort(names)
	return &specs.LinuxCapabilities{
		Bounding:  names,
		Permitted: slices.Clone(names),
		Effective: slices.Clone(names),
	}
}

// permittedCapabilities are the calling process's.
func permittedCapabilities() (uint64, error) {
	const path = "/proc/self/status"
	status, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("read own capabilities: %s: CapPrm: %w", path, err)
			}
			return set, nil
		}
	}
	return 0, fmt.Errorf("read own capabilities: %s has no line CapPrm", path)
}
