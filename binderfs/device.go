package binderfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the file through which devices are allocated; logs and features are the directories of a mount.
const (
	control     = "binder-control"
	features    = "features"
	logs        = "binder_logs"
	maxName     = 255
	maxNameSize = maxName + 1
)

// ctlAdd is BINDER_CTL_ADD: _IOWR('b', 1, struct binderfs_device).
const ctlAdd = 3<<30 | unsafe.Sizeof(allocation{})<<16 | 'b'<<8 | 1

type allocation struct {
	name         [maxNameSize]byte
	major, minor uint32
}

// Device is a Binder device of a mount.
type Device struct {
	Name  string `json:"name"`
	Path  string `json:"path"` // within the mount namespace of the file system
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// AddDevice allocates a device. Its file belongs to root of the mount's user namespace, with mode 0600. The error is ErrName,
// ErrExists or ErrFull where these are the reason.
func (f *FS) AddDevice(name string) (Device, error) {
	d, err := f.add(name)
	if err != nil {
		return Device{}, fmt.Errorf("add binder device %q to %s: %w", name, f.path, err)
	}
	return d, nil
}

func (f *FS) add(name string) (Device, error) {
	if err := CheckName(name); err != nil {
		return Device{}, err
	}
	fd, err := unix.Openat(int(f.root.Fd()), control, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Device{}, fmt.Errorf("open %s: %w", control, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var a allocation
	copy(a.name[:maxName], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ctlAdd, uintptr(unsafe.Pointer(&a)))
	switch errno {
	case 0:
		return Device{Name: name, Path: filepath.Join(f.path, name), Major: a.major, Minor: a.minor}, nil
	case unix.ENOSPC, unix.EMFILE:
		return Device{}, ErrFull
	case unix.EEXIST:
		return Device{}, ErrExists
	}
	return Device{}, errno
}

// CheckName returns an error that is ErrName if a device cannot have that name.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%w: %q", ErrName, name)
	case len(name) > maxName:
		return fmt.Errorf("%w: longer than %d bytes", ErrName, maxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: %q has a slash or a NUL", ErrName, name)
	case name == control || name == features || name == logs:
		return fmt.Errorf("%w: %q is a file of the file system itself", ErrName, name)
	}
	return nil
}

// RemoveDevice removes a device. Who has it open can go on; nobody else can reach it. The error is fs.ErrNotExist if there is
// none of that name.
func (f *FS) RemoveDevice(name string) error {
	err := CheckName(name)
	if err == nil {
		err = unix.Unlinkat(int(f.root.Fd()), name, 0)
	}
	if err != nil {
		return fmt.Errorf("remove binder device %q from %s: %w", name, f.path, err)
	}
	return nil
}

// Chmod sets who may use a device. The error is fs.ErrNotExist if there is none of that name.
func (f *FS) Chmod(name string, mode fs.FileMode) error {
	err := CheckName(name)
	if err == nil {
		err = unix.Fchmodat(int(f.root.Fd()), name, uint32(mode.Perm()), 0)
	}
	if err != nil {
		return fmt.Errorf("change the mode of binder device %q in %s: %w", name, f.path, err)
	}
	return nil
}

// Devices lists the devices by name.
func (f *FS) Devices() ([]Device, error) {
	names, err := f.list(".")
	if err != nil {
		return nil, err
	}
	devices := []Device{}
	for _, name := range names {
		var st unix.Stat_t
		if name == control {
			continue
		}
		err := unix.Fstatat(int(f.root.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("look at %s in %s: %w", name, f.path, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			devices = append(devices, Device{
				Name: name, Path: filepath.Join(f.path, name), Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
			})
		}
	}
	return devices, nil
}

// Features tells what the driver says of itself, e.g. oneway_spam_detection, extended_error. It is empty where the driver is
// older than that (before Linux 5.15).
func (f *FS) Features() (map[string]bool, error) {
	names, err := f.list(features)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]bool{}, nil
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool, len(names))
	for _, name := range names {
		text, err := f.read(filepath.Join(features, name))
		if err != nil {
			return nil, err
		}
		found[name] = strings.TrimSpace(text) == "1"
	}
	return found, nil
}

func (f *FS) list(dir string) ([]string, error) {
	fd, err := unix.Openat(int(f.root.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", dir, f.path, err)
	}
	d := os.NewFile(uintptr(fd), dir)
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", dir, f.path, err)
	}
	sort.Strings(names)
	return names, nil
}

func (f *FS) read(name string) (string, error) {
	fd, err := unix.Openat(int(f.root.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("read %s of %s: %w", name, f.path, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }()
	var b [64]byte
	n, err := file.Read(b[:])
	if err != nil && n == 0 {
		return "", fmt.Errorf("read %s of %s: %w", name, f.path, err)
	}
	return string(b[:n]), nil
}
