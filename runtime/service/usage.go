package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errNoUsage says that a memory budget cannot be kept.
var errNoUsage = errors.New("the sandbox has no memory cgroup of its own, so that nobody counts what it holds; " +
	"way out: mount the memory controller, or give no memory-budget")

// usage tells what the processes of a sandbox hold together: the kernel counts each page once, however many share it, and
// page tables and stacks too. It is one read of a file.
type usage struct {
	current, stat string
	cached        []string // names in stat of what goes by itself when memory is short
}

// usageOf finds the memory cgroup of process pid. One that it shares with the process self, which is no part of the sandbox,
// does not count: errNoUsage.
func usageOf(pid, self int) (*usage, error) {
	own := memoryGroup(pid)
	if own == nil {
		return nil, errNoUsage
	}
	if other := memoryGroup(self); other != nil && other.path == own.path && other.root == own.root {
		return nil, errNoUsage
	}
	u := &usage{
		current: filepath.Join(own.root, own.path, own.used),
		stat:    filepath.Join(own.root, own.path, "memory.stat"),
		cached:  []string{"inactive_file", "active_file"},
	}
	if own.used != "memory.current" {
		u.cached = []string{"total_inactive_file", "total_active_file"}
	}
	if _, ok := readAmount(u.current); !ok {
		return nil, errNoUsage
	}
	return u, nil
}

// Charged is what the kernel has charged to the memory cgroup of process pid, in bytes, cached files included.
func Charged(pid int) (int64, error) {
	g := memoryGroup(pid)
	if g == nil {
		return 0, errNoUsage
	}
	n, _ := readAmount(filepath.Join(g.root, g.path, g.used)) // it could be read a moment ago
	return int64(n), nil
}

func memoryGroup(pid int) *limitedGroup {
	for _, g := range limitedGroups(pid) {
		if strings.HasPrefix(g.used, "memory.") {
			if _, ok := readAmount(filepath.Join(g.root, g.path, g.used)); ok {
				return &g
			}
		}
	}
	return nil
}

// bytes is what they hold now. If that seems to be above limit, the cache of files is left out.
func (u *usage) bytes(limit int64) (int64, error) {
	n, ok := readAmount(u.current)
	if !ok {
		return 0, fmt.Errorf("%s: it cannot be read any more", u.current)
	}
	used := int64(n)
	if used <= limit {
		return used, nil
	}
	text, err := os.ReadFile(u.stat)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, c := range u.cached {
			if n, err := strconv.ParseInt(value, 10, 64); name == c && err == nil {
				used -= n
			}
		}
	}
	return max(used, 0), nil
}
