package hooks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
)

// permit lets the cgroup of a process open the devices. Runtimes forbid containers all devices that are not in their
// configuration, and the numbers of these are known only now. They set up the cgroup before they run hooks.
func permit(pid int, f *binderfs.FS, names []string) error {
	all, err := f.Devices()
	if err != nil {
		return err
	}
	var devices []number
	for _, d := range all {
		if slices.Contains(names, d.Name) {
			devices = append(devices, number{d.Major, d.Minor})
		}
	}
	if err := allow(pid, devices); err != nil {
		return fmt.Errorf("let the container use its Binder devices: %w", err)
	}
	return nil
}

// number is that of a character device.
type number struct{ major, minor uint32 }

// allow lets the cgroup of a process read and write character devices, by whatever controls devices there.
func allow(pid int, devices []number) error {
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		controllers, path := fields[1], fields[2]
		switch {
		case fields[0] == "0" && controllers == "":
			if dir := cgroupDirectory(string(mountinfo), "cgroup2", "", path); dir != "" {
				err = errors.Join(err, allowByProgram(dir, devices))
			}
		case slices.Contains(strings.Split(controllers, ","), "devices"):
			dir := cgroupDirectory(string(mountinfo), "cgroup", "devices", path)
			if dir == "" {
				return fmt.Errorf("%w: the cgroup hierarchy of devices is not mounted, where %s would be", ErrInvalid, path)
			}
			err = errors.Join(err, allowByList(dir, devices))
		}
	}
	return err
}

// cgroupDirectory finds a cgroup by its path, in a mount of its hierarchy. It returns "" if there is none.
func cgroupDirectory(mountinfo, kind, controller, path string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(super) < 3 || super[0] != kind {
			continue
		}
		if controller != "" && !slices.Contains(strings.Split(super[2], ","), controller) {
			continue
		}
		if below, err := filepath.Rel(fields[3], path); err == nil && below != ".." && !strings.HasPrefix(below, "../") {
			return filepath.Join(fields[4], below)
		}
	}
	return ""
}

// allowByList is for cgroups of the first version.
func allowByList(dir string, devices []number) error {
	for _, d := range devices {
		file, err := os.OpenFile(filepath.Join(dir, "devices.allow"), os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the root of the hierarchy forbids nothing
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(file, "c %d:%d rw", d.major, d.minor)
		if err = errors.Join(err, file.Close()); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = fmt.Errorf("%w: a cgroup above it forbids them", err)
			}
			return err
		}
	}
	return nil
}
