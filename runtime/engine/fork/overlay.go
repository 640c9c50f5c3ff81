package fork

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// onThread runs fn on a thread that ends with it, so that fn may change what belongs to a thread. Its root and working
// directories are its own.
func onThread(fn func() error) error {
	return osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return fn()
	})
}

// mountNS opens the mount namespace of a process.
func mountNS(pid int) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, gone(pid, err)
}

// rootOf opens the root directory of a process.
func rootOf(pid int) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, gone(pid, err)
}

// openIn opens a directory by the path that it has for a process with this root directory.
func openIn(root int, path string) (int, error) {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return -1, fmt.Errorf("directory %s of the service: %w", path, err)
	}
	return fd, nil
}

// openLowers makes a mount namespace of the engine's own and mounts the private directories there, as the process sees
// them, on dir/lower/N. The namespace, which is returned, ends with the last thread in it and the last descriptor for it.
func openLowers(pid int, paths []string, dir string) (ns int, err error) {
	root, err := rootOf(pid)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	theirs, err := mountNS(pid)
	if err != nil {
		return -1, err
	}
	defer unix.Close(theirs)
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := keepMounts(); err != nil {
			return err
		}
		if ns, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		for i, path := range paths {
			if err := mountLower(ns, theirs, root, path, lowerDir(dir, i)); err != nil {
				unix.Close(ns)
				return err
			}
		}
		return nil
	})
	return ns, err
}

func lowerDir(dir string, i int) string { return filepath.Join(dir, "lower", fmt.Sprint(i)) }

// keepMounts makes mounts of this thread's namespace stay in it. What is unmounted elsewhere goes here, too.
func keepMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts in their namespace: %w", err)
	}
	return nil
}

// mountLower mounts a directory of namespace theirs in the namespace ours, where the thread is before and after.
func mountLower(ours, theirs, root int, path, at string) error {
	d, err := openIn(root, path)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err := unix.Setns(theirs, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the service's mount namespace: %w", err)
	}
	tree, err := unix.OpenTree(d, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("directory %s of the service: clone its mount: %w", path, err)
	}
	defer unix.Close(tree)
	if err := unix.Setns(ours, unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("directory %s of the service: mount it: %w", path, err)
	}
	return nil
}

// overlays makes, in namespace ns, a mount of an overlay for each of n directories: dir/lower/N under dir/tree/N/upper. They
// are not attached anywhere, and live as long as the descriptors returned.
func overlays(ns int, dir, tree string, n int) (mounts []int, err error) {
	err = onThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the engine's mount namespace: %w", err)
		}
		if err := unix.Chdir(dir); err != nil { // so that the options below have no characters with a meaning
			return &os.PathError{Op: "chdir", Path: dir, Err: err}
		}
		for i := range n {
			m, err := overlay(fmt.Sprintf("lower/%d", i), "none", fmt.Sprintf("%s/%d", tree, i))
			if err != nil {
				return err
			}
			mounts = append(mounts, m)
		}
		return nil
	})
	if err != nil {
		closeAll(mounts)
		return nil, err
	}
	return mounts, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// overlayOptions: directories of the lower layer can be renamed; nothing refers to files by what only one kernel knows. An
// instance does not outlive the machine, so there is no sense in waiting for its files to be on disk.
var overlayOptions = [][2]string{
	{"redirect_dir", "on"}, {"index", "off"}, {"metacopy", "off"}, {"xino", "off"}, {"nfs_export", "off"},
}

// overlay makes one mount, of lower under tree/upper. none is an empty directory on the file system of the tree: the kernel
// looks for the origins of files in the file systems of lower directories.
func overlay(lower, none, tree string) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlay file system: %w", err)
	}
	defer unix.Close(fs)
	options := append([][2]string{{"source", "corsa"}, {"lowerdir", lower + ":" + none}, {"upperdir", tree + "/upper"}, {"workdir", tree + "/work"}},
		overlayOptions...)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("overlay file system: %s=%s: %w%s", o[0], o[1], err, complaint(fs))
		}
	}
	if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
		return -1, fmt.Errorf("overlay file system: volatile: %w%s", err, complaint(fs))
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("overlay file system: %w%s", err, complaint(fs))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(lower, &st); err != nil {
		return -1, err
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, mountAttributes(st.Flags))
	if err != nil {
		return -1, fmt.Errorf("overlay file system: mount: %w", err)
	}
	return m, nil
}

// mountAttributes gives a mount what the one below it has.
func mountAttributes(flags int64) int {
	attr := 0
	for _, f := range []struct{ st, attr int }{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	} {
		if int(flags)&f.st != 0 {
			attr |= f.attr
		}
	}
	switch {
	case flags&unix.ST_NOATIME != 0:
		attr |= unix.MOUNT_ATTR_NOATIME
	case flags&unix.ST_RELATIME == 0:
		attr |= unix.MOUNT_ATTR_STRICTATIME
	}
	return attr
}

// complaint is what the kernel says about a file system that it does not make.
func complaint(fs int) string {
	var all []string
	for buf := make([]byte, 512); ; {
		n, err := unix.Read(fs, buf)
		if err != nil || n == 0 {
			break
		}
		all = append(all, strings.TrimSpace(string(buf[:n])))
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// attach puts the mounts onto directories of a process that has a mount namespace of its own and does not run. With
// instead, those that it has inherited there are taken away.
func attach(pid int, mounts []int, paths []string, instead bool) error {
	root, err := rootOf(pid)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	ns, err := mountNS(pid)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return onThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace of process %d: %w", pid, err)
		}
		if err := keepMounts(); err != nil {
			return err
		}
		for i, path := range paths {
			if instead {
				if err := detach(root, path); err != nil {
					return err
				}
			}
			d, err := openIn(root, path)
			if err != nil {
				return err
			}
			err = unix.MoveMount(mounts[i], "", d, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
			unix.Close(d)
			if err != nil {
				return fmt.Errorf("mount on directory %s of the service: %w", path, err)
			}
		}
		return nil
	})
}

// detach takes away the mount whose root the directory is. What is still in use of it lives on.
func detach(root int, path string) error {
	d, err := openIn(root, path)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err = unix.Fchdir(d); err == nil {
		err = unix.Unmount(".", unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount directory %s of the service: %w", path, err)
	}
	return nil
}
