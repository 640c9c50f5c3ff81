package route

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lockLimit is how long is waited for others that mount or unmount the bpffs.
const lockLimit = 5 * time.Second

const (
	usualBPFFS = "/sys/fs/bpf"
	ourSource  = "corsa" // of a bpffs that was mounted here
	ourDir     = "corsa" // in any
)

// preloaded is what the kernel may put into every bpffs.
var preloaded = []string{"maps.debug", "progs.debug"}

// serviceDir is the directory of a service's pins, which has one for each version of the program. It is in pins, or in the
// host's bpffs. It is made if create says so, and the bpffs mounted, if they are not there; without that the result may be "".
func serviceDir(pins, id string, create bool) (string, error) {
	sum := sha256.Sum256([]byte(id)) // names in a bpffs have no dots, and ids may
	name := hex.EncodeToString(sum[:8])
	if pins == "" {
		unlock, err := lockBPFFS()
		if err != nil {
			return "", err
		}
		defer unlock()
		if pins, err = bpffs(create); err != nil || pins == "" {
			return "", err
		}
		pins = filepath.Join(pins, ourDir)
	}
	dir := filepath.Join(pins, name)
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("%w: %w; way out: a bpffs on %s that can be written", ErrUnsupported, err, usualBPFFS)
		}
	}
	return dir, nil
}

// bpffs is where a bpffs is mounted. It is mounted if it is not and mount says so.
func bpffs(mount bool) (string, error) {
	point, _, err := findMount("bpf", usualBPFFS)
	if err != nil || point != "" || !mount {
		return point, err
	}
	if err := unix.Mount(ourSource, usualBPFFS, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return "", fmt.Errorf("%w: mount bpffs on %s: %w; way out: mount one", ErrUnsupported, usualBPFFS, err)
	}
	return usualBPFFS, nil
}

// Pins is the directory in the host's bpffs where what belongs to the service id is pinned, or would be. "": there is no bpffs.
func Pins(id string) string {
	dir, err := serviceDir("", id, false)
	if err != nil {
		return ""
	}
	return dir
}

// lockBPFFS keeps other processes from mounting and unmounting it.
func lockBPFFS() (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(usualBPFFS))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w; way out: mount sysfs", ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockLimit); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(until) { // anybody may lock it
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir.Name(), err), dir.Close())
		}
	}
	return func() { _ = dir.Close() }, nil
}

// findMount finds where a file system of that kind is mounted as a whole, best at the place preferred, and its source.
func findMount(kind, preferred string) (point, source string, err error) {
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		f, super := strings.Fields(before), strings.Fields(after)
		if len(f) < 6 || len(super) < 3 || super[0] != kind || f[3] != "/" || !slices.Contains(strings.Split(f[5], ","), "rw") {
			continue
		}
		if point == "" || f[4] == preferred {
			point, source = f[4], super[1]
		}
	}
	return point, source, lines.Err()
}

// cgroupRoot is where the cgroups of version 2 are mounted, "" if they are not.
func cgroupRoot() string {
	point, _, err := findMount("cgroup2", "/sys/fs/cgroup")
	if err != nil {
		return ""
	}
	return point
}

// Remove ends the routing for the service id, also when its monitor is dead: apps arrive at the public sockets from now on. It is
// no error if there is nothing. pins is Config.Pins.
func Remove(id, pins string) error {
	dir, err := serviceDir(pins, id, false)
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	if err != nil || dir == "" {
		return err
	}
	if err := clearPins(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if pins != "" {
		return nil
	}
	return unmountOurs(filepath.Dir(dir))
}

// clearPins removes all that is in a service's directory. Without its link a program is not called any more, but the kernel
// takes its time to let go of that: the program is told first that it is not to lead anybody.
func clearPins(dir string) error {
	versions, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range versions {
		of := filepath.Join(dir, v.Name())
		if err := stop(filepath.Join(of, "settings")); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(of, "link")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.RemoveAll(of); err != nil {
			return err
		}
	}
	return nil
}

// stop clears the settings in a pinned map, the time until which apps are led among them. That is
// the meaning of zeros in every version.
func stop(path string) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = m.Close() }()
	if err := m.Put(uint32(0), make([]byte, m.ValueSize())); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// unmountOurs unmounts a bpffs that was mounted here once the last service has gone.
func unmountOurs(base string) error {
	unlock, err := lockBPFFS()
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(base); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		return err
	}
	point, source, err := findMount("bpf", usualBPFFS)
	if err != nil || source != ourSource || point != filepath.Dir(base) {
		return err
	}
	rest, err := os.ReadDir(point)
	if err != nil || slices.ContainsFunc(rest, func(e fs.DirEntry) bool { return !slices.Contains(preloaded, e.Name()) }) {
		return err
	}
	if err := unix.Unmount(point, 0); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}
