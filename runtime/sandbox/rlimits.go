package sandbox

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// convertRlimits also finds out what the kernel would refuse with a bare "operation not permitted" once the container is half
// made: to raise a hard limit is a privilege that a process may lack though it is root.
func convertRlimits(list []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	var converted []configs.Rlimit
	seen := map[string]bool{}
	for _, r := range list {
		typ, ok := rlimits[r.Type]
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: unknown process.rlimits type %q", ErrInvalidBundle, r.Type)
		case seen[r.Type]:
			return nil, fmt.Errorf("%w: process.rlimits has %s twice", ErrInvalidBundle, r.Type)
		case r.Soft > r.Hard:
			return nil, fmt.Errorf("%w: process.rlimits: %s: the soft limit %d is above the hard limit %d", ErrInvalidBundle, r.Type, r.Soft, r.Hard)
		}
		seen[r.Type] = true
		if err := checkRlimit(typ, r); err != nil {
			return nil, err
		}
		converted = append(converted, configs.Rlimit{Type: typ, Hard: r.Hard, Soft: r.Soft})
	}
	return converted, nil
}

func checkRlimit(typ int, r specs.POSIXRlimit) error {
	var own unix.Rlimit
	if err := unix.Prlimit(0, typ, nil, &own); err != nil {
		return fmt.Errorf("read the limit %s: %w", r.Type, err)
	}
	if typ == unix.RLIMIT_NOFILE {
		if max, ok := maxFiles(); ok && r.Hard > max {
			return fmt.Errorf("%w: process.rlimits: %s: the kernel takes no hard limit above fs.nr_open, which is %d, and %d is asked for: lower it, or raise that by sysctl",
				ErrInvalidBundle, r.Type, max, r.Hard)
		}
	}
	if r.Hard <= own.Max || mayRaiseLimits() {
		return nil
	}
	return fmt.Errorf("%w: process.rlimits: %s: a hard limit of %d is above corsa's own, %d, and to raise it needs CAP_SYS_RESOURCE, which corsa does not have: "+
		"ask for at most %d, or start corsa with a higher limit", ErrInvalidBundle, r.Type, r.Hard, own.Max, own.Max)
}

// maxFiles is the sysctl fs.nr_open.
func maxFiles() (max uint64, ok bool) {
	data, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(strings.TrimSpace(string(data)), &max)
	return max, err == nil
}

// mayRaiseLimits tells whether we have CAP_SYS_RESOURCE. That of a user namespace does not count.
func mayRaiseLimits() bool {
	if InUserNamespace() {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true // the kernel will tell
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
