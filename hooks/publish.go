package hooks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
)

// records is where is written down what hooks have mounted on the host: one file for each container.
const records = "/run/corsa-binderfs-hook"

// publish mounts the container's binderfs on the host's directory path too, which it makes if need be, and remembers it
// under the container's id for Unpublish.
func (c *container) publish(f *binderfs.FS, path, id string) (err error) {
	record, err := recordOf(id)
	if err != nil {
		return err
	}
	if isBinderfs(path) {
		if same, err := isRoot(f, path); same || err != nil {
			return err // the runtime has published it, and takes it back
		}
		return fmt.Errorf("publish on %s: %w: a binderfs is mounted there; unmount it, or name another directory", path, fs.ErrExist)
	}
	if err := checkRecord(record, id); err != nil {
		return err
	}
	made := false
	if err := os.Mkdir(path, 0o755); err == nil {
		made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish: %w", err)
	}
	defer func() {
		if err != nil && made {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := os.MkdirAll(filepath.Dir(record), 0o700); err != nil {
		return err
	}
	// First the record: what cannot be found again must not be made.
	text := path + "\n"
	if made {
		text += "made\n"
	}
	if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(record))
		}
	}()
	return c.mountCopy(f, path)
}

// checkRecord returns an error if a container of that id, under another root of its runtime, has something published. What
// a record says that has been left behind does not matter.
func checkRecord(record, id string) error {
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	path, _, _ := strings.Cut(string(text), "\n")
	if isBinderfs(path) {
		return fmt.Errorf("publish: %w: another container %s has published on %s: choose another id", fs.ErrExist, id, path)
	}
	return nil
}

func isBinderfs(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.BINDERFS_SUPER_MAGIC
}

// isRoot tells whether path shows the file system.
func isRoot(f *binderfs.FS, path string) (bool, error) {
	there, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	root, err := f.Root().Stat()
	return err == nil && os.SameFile(root, there), err
}

// mountCopy mounts what is mounted in the container on the host as well.
func (c *container) mountCopy(f *binderfs.FS, path string) error {
	copied := -1
	err := c.inside(func() error {
		root, err := unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", f.Root().Fd()), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(root) }()
		copied, err = unix.OpenTree(root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		return err
	})
	if err != nil {
		return fmt.Errorf("publish on %s: copy the container's mount: %w", path, err)
	}
	defer func() { _ = unix.Close(copied) }()
	if err := unix.MoveMount(copied, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("publish on %s: %w", path, err)
	}
	return nil
}

// Unpublish takes back what the hook has mounted on the host for a container. It does nothing if that has been done.
func Unpublish(path, id string) error {
	record, err := recordOf(id)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounted, rest, _ := strings.Cut(string(text), "\n")
	if mounted != path {
		return fmt.Errorf("%w: %s says %s, but %s is %s", ErrInvalid, record, mounted, AnnotationPublish, path)
	}
	if isBinderfs(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if rest == "made\n" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(record)
}

// recordOf returns the path of a container's record.
func recordOf(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/\x00") || id == "." || id == ".." {
		return "", fmt.Errorf("%w: %q is not an id", ErrInvalid, id)
	}
	return filepath.Join(records, id), nil
}
