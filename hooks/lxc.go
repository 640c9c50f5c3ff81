package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
)

// The environment in which LXC runs hooks; see lxc.container.conf(5).
const (
	lxcType = "LXC_HOOK_TYPE"
	lxcName = "LXC_NAME"
	lxcRoot = "LXC_ROOTFS_MOUNT"
	lxcPID  = "LXC_PID"
)

// LXC is a hook of LXC for three moments. As lxc.hook.autodev, or as lxc.hook.mount where lxc.autodev is 0, it runs in the
// container's namespaces and mounts its binderfs with the devices of the list. As lxc.hook.start-host it runs on the host
// and lets the container's cgroup use them. There is nothing to be taken back: all of it ends with the container.
//
// added is what LXC appends to the arguments of a hook: the container's name, "lxc" and the kind of hook. With
// lxc.hook.version = 1 it appends nothing, and the environment has it.
func LXC(list string, added []string) error {
	kind, name := os.Getenv(lxcType), os.Getenv(lxcName)
	if len(added) >= 3 {
		name, kind = added[0], added[2]
	}
	if kind == "" || name == "" {
		return fmt.Errorf("%w: no container and no type are named; this is a hook: lxc-start runs it", ErrInvalid)
	}
	if err := lxc(kind, list); err != nil {
		return fmt.Errorf("container %s: lxc.hook.%s: %w", name, kind, err)
	}
	return nil
}

func lxc(kind, list string) error {
	devices, err := ParseDevices(list)
	if err != nil {
		return err
	}
	switch kind {
	case "autodev", "mount":
		root := os.Getenv(lxcRoot)
		if !filepath.IsAbs(root) {
			return fmt.Errorf("%w: %s=%q is not an absolute path", ErrInvalid, lxcRoot, root)
		}
		fs, err := (&container{root: root}).provide(devices)
		if err != nil {
			return err
		}
		return fs.Close()
	case "start-host":
		pid, err := strconv.Atoi(os.Getenv(lxcPID))
		if err != nil || pid <= 0 {
			return fmt.Errorf("%w: %s=%q is not a process id; LXC sets it from version 3.0 on", ErrInvalid, lxcPID, os.Getenv(lxcPID))
		}
		return permitStarted(pid, devices)
	}
	return fmt.Errorf("%w: use the hook as lxc.hook.autodev (or lxc.hook.mount) and lxc.hook.start-host", ErrInvalid)
}

// permitStarted permits the devices of a container whose process has its own root directory already.
func permitStarted(pid int, devices []string) error {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root of process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(root) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH}
	dir, err := unix.Openat2(root, "dev/"+directory, &how)
	if err != nil {
		return fmt.Errorf("/dev/%s of the container: %w; is this hook its lxc.hook.autodev or lxc.hook.mount too?", directory, err)
	}
	defer func() { _ = unix.Close(dir) }()
	f, err := binderfs.Open(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return fmt.Errorf("/dev/%s of the container: %w; is this hook its lxc.hook.autodev or lxc.hook.mount too?", directory, err)
	}
	defer func() { _ = f.Close() }()
	return permit(pid, f, devices)
}
