package hooks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
)

// directory is where in a container's /dev the file system is mounted.
const directory = "binderfs"

// deviceMode is that of the devices: as in Android, everybody in the container may use them.
const deviceMode = 0o666

// container is one whose mounts have been made, and whose process still has the root directory that the runtime has.
type container struct {
	root       string // as the runtime sees it
	namespaces binderfs.Namespaces
	owner      owner
}

// openContainer opens the container of the process pid. Namespaces that the hook itself is in are left out: they need not,
// and in the case of a user namespace cannot, be entered.
func openContainer(pid int, root string) (*container, error) {
	c := &container{root: root}
	for name, file := range map[string]**os.File{"user": &c.namespaces.User, "ipc": &c.namespaces.IPC, "mnt": &c.namespaces.Mount} {
		f, err := openNamespace(pid, name)
		if err != nil {
			c.close()
			return nil, err
		}
		*file = f
	}
	if c.namespaces.Mount == nil {
		c.close()
		return nil, fmt.Errorf("%w: process %d has the host's mount namespace: use the hook for the stage createRuntime", ErrInvalid, pid)
	}
	if c.namespaces.User != nil {
		var err error
		if c.owner, err = rootOf(pid); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *container) close() {
	for _, f := range []*os.File{c.namespaces.User, c.namespaces.IPC, c.namespaces.Mount} {
		_ = f.Close() // nil is fine
	}
}

// openNamespace returns nil if it is the hook's own.
func openNamespace(pid int, name string) (*os.File, error) {
	own, err := os.Stat("/proc/thread-self/ns/" + name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		return nil, fmt.Errorf("namespace of the container's process: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !os.SameFile(own, st) {
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// inside runs f on a thread of its own whose mount namespace is the container's. The thread ends with it.
func (c *container) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not run anything else
		// A thread that shares its root directory with others cannot leave their mount namespace.
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil && c.namespaces.Mount != nil {
			err = unix.Setns(int(c.namespaces.Mount.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			done <- fmt.Errorf("enter the container's mount namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// provide mounts binderfs in the container, unless its configuration has, and makes the devices and the links to them.
func (c *container) provide(devices []string) (*binderfs.FS, error) {
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem && s.Offer != binderfs.OfferUnknown {
		return nil, fmt.Errorf("%w: %s; way out: %s", binderfs.ErrUnsupported, s.Detail, s.WayOut)
	}
	var mounted *binderfs.FS
	err := c.inside(func() error {
		var err error
		mounted, err = c.prepare()
		return err
	})
	if err != nil {
		return nil, err
	}
	if mounted == nil {
		if mounted, err = binderfs.Mount(filepath.Join(c.root, "dev", directory), binderfs.Options{Namespaces: c.namespaces}); err != nil {
			return nil, err
		}
	}
	err = addDevices(mounted, devices)
	if err == nil {
		err = c.inside(func() error { return c.link(devices) })
	}
	if err != nil {
		return nil, errors.Join(err, mounted.Close())
	}
	return mounted, nil
}

// prepare makes the mount point. It returns the file system if it is there already.
func (c *container) prepare() (*binderfs.FS, error) {
	dev, err := c.openDev()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dev) }()
	err = c.owner.do(func() error { return unix.Mkdirat(dev, directory, 0o755) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make /dev/%s in the container: %w", directory, err)
	}
	f, err := binderfs.Open(fmt.Sprintf("/proc/thread-self/fd/%d/%s", dev, directory))
	if errors.Is(err, binderfs.ErrNotBinderfs) {
		return nil, nil
	}
	return f, err
}

// openDev opens the container's /dev without following what the image may have put there.
func (c *container) openDev() (int, error) {
	root, err := unix.Open(c.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("root of the container, %s: %w", c.root, err)
	}
	defer func() { _ = unix.Close(root) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH}
	dev, err := unix.Openat2(root, "dev", &how)
	if err != nil {
		return -1, fmt.Errorf("/dev of the container in %s: %w", c.root, err)
	}
	same, err := sameMount(root, dev)
	if err == nil && same {
		err = fmt.Errorf("%w: the container's /dev belongs to its root file system, where the devices would leave traces: mount a tmpfs on /dev", ErrInvalid)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(dev))
	}
	return dev, nil
}

func sameMount(a, b int) (bool, error) {
	var st [2]unix.Statx_t
	for i, fd := range []int{a, b} {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st[i]); err != nil {
			return false, fmt.Errorf("statx: %w", err)
		}
	}
	return st[0].Mnt_id == st[1].Mnt_id, nil
}

// addDevices makes what the file system does not have yet, and lets everybody in the container use it.
func addDevices(f *binderfs.FS, devices []string) error {
	for _, name := range devices {
		if _, err := f.AddDevice(name); err != nil && !errors.Is(err, binderfs.ErrExists) {
			return err
		}
		if err := f.Chmod(name, deviceMode); err != nil {
			return err
		}
	}
	return nil
}

// link makes /dev/NAME lead to the devices, as programs expect.
func (c *container) link(devices []string) error {
	dev, err := c.openDev()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dev) }()
	for _, name := range devices {
		target := directory + "/" + name
		err := c.owner.do(func() error { return unix.Symlinkat(target, dev, name) })
		if errors.Is(err, unix.EEXIST) {
			var b [256]byte
			if n, lerr := unix.Readlinkat(dev, name, b[:]); lerr == nil && string(b[:n]) == target {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("link /dev/%s to %s in the container: %w", name, target, err)
		}
	}
	return nil
}
