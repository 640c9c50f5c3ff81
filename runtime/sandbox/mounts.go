package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// secureForRemoval makes it safe to remove dir, a state directory, recursively.
//
// While libcontainer restores a container from a CRIU image, the container's root is bind-mounted at
// <dir>/criu-root. If that process is killed the mount stays, and removing the state directory then empties the
// real root through it. So that mount is detached here, and any other mount is a refusal, ErrMounted.
func secureForRemoval(dir string) error {
	if err := detachAll(filepath.Join(dir, "criu-root")); err != nil {
		return err
	}
	mounts, err := mountsUnder(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%w: not removing %s, since that would empty what is mounted there; unmount first: %s",
			ErrMounted, dir, strings.Join(mounts, ", "))
	}
	return nil
}

// detachAll unmounts path until nothing is mounted on it: mounts stack.
func detachAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
			return nil // mountsUnder decides
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// mountsUnder lists the mount points of our mount namespace that are dir or lie below it.
func mountsUnder(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, err
	}
	// Not /proc/self: that is the main thread, which libcontainer may have moved to a container's mount namespace to
	// open mount sources there. It never comes back.
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			return nil, fmt.Errorf("mountinfo: malformed line %q", lines.Text())
		}
		point := unescapeOctal(fields[4])
		if point == real || strings.HasPrefix(point, real+"/") {
			found = append(found, point)
		}
	}
	return found, lines.Err()
}

// unescapeOctal undoes the kernel's \ooo for space, tab, newline and backslash.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
