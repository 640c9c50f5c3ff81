package containertest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long what has been ended may take to be gone.
const patience = 20 * time.Second

// Traces are the processes and mounts that have dir in their command line or in a path, and the cgroups, with the
// processes in them, that have name in theirs. "" for name: no cgroups.
func Traces(dir, name string) ([]string, error) {
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		if filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue
		}
		// What has ended meanwhile has none.
		cmdline, _ := os.ReadFile(p + "/cmdline")
		cgroup, _ := os.ReadFile(p + "/cgroup")
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		if strings.Contains(text, dir) || name != "" && strings.Contains(string(cgroup), name) {
			found = append(found, p+": "+text)
		}
	}
	mounts, err := mountsBelow(dir)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		found = append(found, "mount "+m)
	}
	if name == "" {
		return found, nil
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), name) {
			found = append(found, path)
			return fs.SkipDir
		}
		return nil // gone meanwhile
	})
	return found, err
}

// AwaitNone waits until there are no Traces of dir and name, or returns an error with those that stay.
func AwaitNone(dir, name string) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		found, err := Traces(dir, name)
		if err != nil || len(found) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("left behind:\n%s", strings.Join(found, "\n"))
		}
	}
}

// Unmount takes away what is mounted below dir.
func Unmount(dir string) error {
	mounts, err := mountsBelow(dir)
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if uerr := unix.Unmount(mounts[i], unix.MNT_DETACH); uerr != nil && !errors.Is(uerr, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mounts[i], uerr))
		}
	}
	return errors.Join(append(errs, err)...)
}

// UnmountAt takes away what is mounted at path, if something is.
func UnmountAt(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	return mounts, nil
}

// RemoveCgroups removes the cgroups name, which have to be empty, of all hierarchies.
func RemoveCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		paths, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, top := range paths {
			errs = append(errs, removeCgroup(top))
		}
	}
	return errors.Join(errs...)
}

func removeCgroup(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeCgroup(filepath.Join(path, e.Name())))
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove cgroup %s: %w", path, err))
	}
	return errors.Join(errs...)
}
