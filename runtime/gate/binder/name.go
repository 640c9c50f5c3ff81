package binder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// names turns the kernel's keys into apps.
type names interface {
	of(key uint64) (instance.App, error)
}

// departures is implemented by names of apps that end.
type departures interface {
	// awaitEnd returns true once the app has ended, false when ctx is done before.
	awaitEnd(ctx context.Context, app instance.App) bool
}

func newNames(kind spec.AppKey) (names, error) {
	switch kind {
	case spec.AppKeyUID:
		return uidNames{}, nil
	case spec.AppKeyPID:
		return pidNames{}, nil
	case spec.AppKeyCgroup:
		return openCgroups()
	}
	_, err := Key(kind)
	return nil, err
}

type uidNames struct{}

func (uidNames) of(key uint64) (instance.App, error) {
	return instance.App("uid:" + strconv.FormatUint(key, 10)), nil
}

// pidNames are of processes, whose numbers are used again: the time at which one began tells it apart.
type pidNames struct{}

func (pidNames) of(key uint64) (instance.App, error) {
	start, err := startTime(key)
	return instance.App(fmt.Sprintf("pid:%d.%d", key, start)), err
}

func startTime(pid uint64) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("process %d is gone: %w", pid, err)
	}
	const field = 22 - 3 // after the name in parentheses, which may hold anything
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) <= field {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[field], 10, 64)
}

// endLook is how often, in milliseconds, a wait for a process sees whether it is still wanted.
const endLook = 200

func (pidNames) awaitEnd(ctx context.Context, app instance.App) bool {
	text, began, _ := strings.Cut(strings.TrimPrefix(string(app), "pid:"), ".")
	pid, err := strconv.Atoi(text)
	if err != nil {
		return false // of has made the name
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return ctx.Err() == nil
	}
	defer func() { _ = unix.Close(fd) }()
	if start, err := startTime(uint64(pid)); err != nil || strconv.FormatUint(start, 10) != began {
		return ctx.Err() == nil
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, endLook)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return true
		}
	}
	return false
}

// cgroupNames are of directories in the unified hierarchy.
type cgroupNames struct{ root *os.File }

func openCgroups() (names, error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") || f[3] != "/" {
			continue
		}
		root, err := os.Open(f[4])
		if err != nil {
			return nil, err
		}
		return cgroupNames{root}, nil
	}
	return nil, errors.New("app key cgroup: no cgroup2 is mounted; way out: mount -t cgroup2 cgroup2 DIRECTORY, or another app key")
}

// fileIDKernfs is FILEID_KERNFS: a handle that is a cgroup's id.
const fileIDKernfs = 0xfe

func (c cgroupNames) of(key uint64) (instance.App, error) {
	id := make([]byte, 8)
	for i := range id {
		id[i] = byte(key >> (8 * i))
	}
	fd, err := unix.OpenByHandleAt(int(c.root.Fd()), unix.NewFileHandle(fileIDKernfs, id), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", key, err)
	}
	defer func() { _ = unix.Close(fd) }()
	path, err := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", key, err)
	}
	relative, err := filepath.Rel(c.root.Name(), path)
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", key, err)
	}
	return instance.App("cgroup:" + filepath.Clean("/"+relative)), nil
}
