package binderfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// fsType is the name under which the kernel knows the file system.
const fsType = "binder"

var (
	// ErrUnsupported says that the kernel has no binderfs. Probe tells the way out.
	ErrUnsupported = errors.New("kernel has no binderfs")
	// ErrNotBinderfs says that a directory is not the root of a mounted binderfs.
	ErrNotBinderfs = errors.New("not the root of a binderfs")
	// ErrFull says that a mount has all the devices that its max= allows.
	ErrFull = errors.New("binderfs has no room for another device")
	// ErrExists says that a name is taken.
	ErrExists = errors.New("device exists")
	// ErrName says that a name cannot be one of a device.
	ErrName = errors.New("not a name for a binder device")
)

// Options say how a binderfs is mounted. The zero value mounts it in the caller's namespaces without a limit.
type Options struct {
	// Max is the greatest number of devices, those that the binder module makes in each mount (its parameter devices=)
	// included. 0: no limit but the kernel's, about a million.
	Max int
	// Stats has the mount show statistics and logs of its own devices in binder_logs. Only the initial user namespace may.
	Stats bool
	// Namespaces in which it is mounted, each an open file such as /proc/PID/ns/mnt; nil: the caller's. The mount belongs to
	// the user namespace: its root owns the devices. Mount does not close them.
	Namespaces Namespaces
}

// Namespaces are open namespace files. A nil one means the caller's own.
type Namespaces struct {
	User, IPC, Mount *os.File
}

func (n Namespaces) own() bool { return n.User == nil && n.IPC == nil && n.Mount == nil }

// FS is a mounted binderfs, held by its root directory: it works wherever it is mounted, also in another mount namespace.
type FS struct {
	root       *os.File
	path       string
	namespaces Namespaces
}

// Mount mounts a new binderfs on the directory dir, which has to be an absolute path, and to exist, in the mount namespace
// of the options. The error is ErrUnsupported if the kernel has none. The FS has to be closed; that does not unmount it.
func Mount(dir string, o Options) (*FS, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("mount binderfs on %s: not an absolute path", dir)
	}
	if o.Max < 0 {
		return nil, fmt.Errorf("mount binderfs on %s: max=%d is negative", dir, o.Max)
	}
	root, err := mountIn(o.Namespaces, dir, o.data())
	if err != nil {
		return nil, fmt.Errorf("mount binderfs on %s: %w", dir, explain(err))
	}
	return &FS{root: root, path: dir, namespaces: o.Namespaces}, nil
}

func (o Options) data() string {
	var data string
	if o.Max > 0 {
		data = "max=" + strconv.Itoa(o.Max)
	}
	if o.Stats {
		if data != "" {
			data += ","
		}
		data += "stats=global"
	}
	return data
}

func explain(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return ErrUnsupported
	}
	return err
}

// Open returns the binderfs that is mounted on dir. The error is ErrNotBinderfs if none is. The FS has to be closed.
func Open(dir string) (*FS, error) {
	root, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &st); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BINDERFS_SUPER_MAGIC {
		_ = root.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrNotBinderfs)
	}
	return &FS{root: root, path: dir}, nil
}

// Path returns where the file system was mounted or opened, as a path of that mount namespace.
func (f *FS) Path() string { return f.path }

// Root returns the root directory, which is f's own: it is closed with f.
func (f *FS) Root() *os.File { return f.root }

// Close lets go of the file system, which stays mounted.
func (f *FS) Close() error { return f.root.Close() }

// Unmount takes the file system out of its directory, in the mount namespace in which Mount has put it, and closes f. It
// goes away when nobody has one of its devices open any more.
func (f *FS) Unmount() error {
	err := unmountIn(f.namespaces, f.path)
	if err != nil {
		err = fmt.Errorf("unmount binderfs on %s: %w", f.path, err)
	}
	return errors.Join(err, f.root.Close())
}
