package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hostRoot is what is directly under the host's root directory.
type hostRoot struct {
	path     string
	skeleton Skeleton
	bound    []string // directories that are bound read-only, as absolute paths
}

// ownDirs are never bound from the host: the sandbox has its own, or none.
var ownDirs = []string{"dev", "proc", "run", "sys", "tmp", "lost+found"}

func readHost(root string) (*hostRoot, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("read the host's root directory: %w", err)
	}
	h := &hostRoot{path: root, skeleton: Skeleton{Links: map[string]string{}}}
	for _, dir := range ownDirs {
		if dir != "lost+found" {
			h.skeleton.Dirs = append(h.skeleton.Dirs, dir)
		}
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(ownDirs, name):
		case e.IsDir():
			h.skeleton.Dirs = append(h.skeleton.Dirs, name)
			h.bound = append(h.bound, "/"+name)
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(filepath.Join(root, name))
			if err != nil {
				return nil, fmt.Errorf("read the host's root directory: %w", err)
			}
			h.skeleton.Links[name] = target
		}
	}
	return h, nil
}

// systemMounts are what a program needs that no host directory gives.
func systemMounts() []specs.Mount {
	tmpfs := func(path, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: path, Type: "tmpfs", Source: source, Options: options}
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		tmpfs("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		tmpfs("/dev/shm", "shm", "nosuid", "noexec", "nodev", "mode=1777"),
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		},
	}
}

// mounts returns all mounts in the order in which they are made: a mount point never lies in a later mount.
func (h *hostRoot) mounts(o *HostBundleOptions) ([]specs.Mount, error) {
	private := h.privateDirs()
	var mounts []specs.Mount
	for _, dir := range h.bound {
		if !slices.Contains(o.Writable, dir) {
			mounts = append(mounts, bind(dir, "rro"))
		}
	}
	mounts = append(mounts, systemMounts()...)

	for _, dir := range private {
		if dir == "/dev/shm" || within(dir, o.Writable) {
			continue
		}
		mode := "mode=1777"
		if dir == "/run" || dir == "/var/run" {
			mode = "mode=755"
		}
		mounts = append(mounts, h.privateTmpfs(o, dir, mode))
	}
	writable := slices.Clone(o.Writable)
	sockets, made, err := h.socketDirs(o, private)
	if err != nil {
		return nil, err
	}
	writable = append(writable, sockets...)
	for _, dir := range made {
		mounts = append(mounts, h.privateTmpfs(o, dir, "mode=755"))
	}
	for _, file := range h.privateFiles(o, private) {
		mounts = append(mounts, bind(file, "ro"))
	}
	slices.Sort(writable)
	for _, path := range slices.Compact(writable) {
		mounts = append(mounts, bind(path, "rw"))
	}
	return mounts, nil
}

// privateDirs are the directories that a program gets empty. Directories under a bound one are only private where
// the host has them: the mount point could not be made there.
func (h *hostRoot) privateDirs() []string {
	dirs := []string{"/run", "/tmp", "/dev/shm"}
	for _, dir := range []string{"/var/tmp", "/var/run"} {
		if fi, err := os.Lstat(filepath.Join(h.path, dir)); err == nil && fi.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// privateTmpfs makes dir writable for a program that does not run as root, too: /run and the directories of its
// sockets belong to it.
func (h *hostRoot) privateTmpfs(o *HostBundleOptions, dir, mode string) specs.Mount {
	options := []string{"nosuid", "nodev", mode}
	if mode != "mode=1777" && o.UID != 0 {
		options = append(options, "uid="+strconv.FormatUint(uint64(o.UID), 10), "gid="+strconv.FormatUint(uint64(o.GID), 10))
	}
	return specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// socketDirs sorts the directories of the service's sockets into those that are bound from the host and those
// that are made in a private directory.
func (h *hostRoot) socketDirs(o *HostBundleOptions, private []string) (bound, made []string, err error) {
	if o.Service == nil {
		return nil, nil, nil
	}
	var problems []error
	for _, e := range o.Service.Endpoints {
		if e.Network != "unix" {
			continue
		}
		dir := followLinks(filepath.Dir(e.Address))
		switch {
		case within(dir, o.Writable) || within(filepath.Dir(e.Address), o.Writable):
		case slices.Contains(private, dir):
		case within(dir, private):
			if !slices.Contains(made, dir) {
				made = append(made, dir)
			}
		case filepath.Dir(dir) == "/" || dir == "/":
			problems = append(problems, &KeyError{
				Key: KeySocket, Value: e.Address,
				Problem: fmt.Sprintf("the sandbox would need all of %s writable; put the socket into a directory of its own, or declare %s writable", dir, dir),
			})
		default:
			if _, err := os.Stat(dir); err != nil {
				problems = append(problems, &KeyError{
					Key: KeySocket, Value: e.Address,
					Problem: fmt.Sprintf("its directory cannot be used: %v; create it, or use one under /run", err),
				})
				continue
			}
			bound = append(bound, dir)
		}
	}
	slices.Sort(made)
	return bound, made, errors.Join(problems...)
}

// privateFiles are single files that a program needs and that a private directory would hide: the program itself,
// and the file behind /etc/resolv.conf, which many hosts keep under /run.
func (h *hostRoot) privateFiles(o *HostBundleOptions, private []string) []string {
	var files []string
	for _, path := range []string{o.program(), "/etc/resolv.conf"} {
		if path == "" {
			continue
		}
		// Both ends of a link have to be there.
		for range 16 {
			if within(path, private) && !within(path, o.Writable) && isFile(path) && !slices.Contains(files, path) {
				files = append(files, path)
			}
			target, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = filepath.Clean(target)
		}
	}
	return files
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// followLinks resolves symbolic links in path as far as it exists: /var/run/redis is /run/redis on most hosts,
// and the latter is what decides, whether or not the host has it.
func followLinks(path string) string {
	for head, tail := path, ""; ; head, tail = filepath.Dir(head), filepath.Join(filepath.Base(head), tail) {
		if real, err := filepath.EvalSymlinks(head); err == nil || head == "/" {
			return filepath.Join(real, tail)
		}
	}
}

// within tells whether path is one of dirs or lies under one.
func within(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	})
}

// bind mounts path, with everything mounted in it, at the same place. access is "rw", "ro" or "rro", of which only
// the last makes mounts within path read-only, too.
func bind(path, access string) specs.Mount {
	return specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", access}}
}
