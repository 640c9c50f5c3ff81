// Package upper copies what an overlay file system has written: the files of its upper directory, with all that the
// overlay notes in them. A copy taken while nobody writes is the same state, and another overlay over the same lower
// directory shows the same files when it gets it as its upper directory.
//
// Copied are names, contents with their holes, owners, modes, access and modification times, extended attributes (those of
// the overlay among them), symbolic links, hard links within the tree, whiteouts and other device nodes, named pipes and the
// names of sockets. The kernel lets nobody set change times.
package upper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Usage is what a tree holds.
type Usage struct {
	Files int   `json:"files"` // names, the root not among them
	Bytes int64 `json:"bytes"` // of disk space; what is shared with other trees by reflinks counts, too
}

// inode names a file beyond its name.
type inode struct{ dev, ino uint64 }

// copier is one Copy under way.
type copier struct {
	links map[inode]string // where the copy of a file with several names is, below the root of the copy
	root  int              // of the copy
	usage Usage
	buf   []byte
	mark  func(path string, st *unix.Stat_t, from, to int) error
}

// Option changes what Copy does.
type Option func(*copier)

// Marked has Copy call mark for each regular file once its copy is complete. from and to are both, open during the call.
func Marked(mark func(path string, st *unix.Stat_t, from, to int) error) Option {
	return func(c *copier) { c.mark = mark }
}

// Copy makes to, an existing empty directory, a copy of the directory from. Nobody may change from meanwhile. The error
// names the file that could not be copied; what has been copied by then is left for the caller to remove.
func Copy(from, to string, options ...Option) (Usage, error) {
	src, err := openDir(unix.AT_FDCWD, from)
	if err != nil {
		return Usage{}, fmt.Errorf("%s: %w", from, err)
	}
	defer unix.Close(src)
	dst, err := openDir(unix.AT_FDCWD, to)
	if err != nil {
		return Usage{}, fmt.Errorf("%s: %w", to, err)
	}
	defer unix.Close(dst)
	c := copier{links: map[inode]string{}, root: dst}
	for _, o := range options {
		o(&c)
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return Usage{}, fmt.Errorf("%s: %w", from, err)
	}
	c.usage.Bytes = st.Blocks * 512
	if err := c.entries(src, dst, ""); err != nil {
		return c.usage, fmt.Errorf("copy %s: %w", from, err)
	}
	if err := attributes(file{fd: src}, file{fd: dst}, &st); err != nil {
		return c.usage, fmt.Errorf("copy %s: %w", from, err)
	}
	return c.usage, nil
}

func openDir(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// entries copies what is in a directory.
func (c *copier) entries(src, dst int, path string) error {
	names, err := list(src)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	for _, name := range names {
		p := filepath.Join(path, name)
		if err := c.entry(src, dst, name, p); err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) {
				return err
			}
			return &os.PathError{Op: "copy", Path: p, Err: err}
		}
	}
	return nil
}

// list reads the names in a directory, from its beginning.
func list(dir int) ([]string, error) {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Getdents(dir, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// entry copies one name.
func (c *copier) entry(src, dst int, name, path string) error {
	from, err := unix.Openat(src, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	c.usage.Files++
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := c.links[id]; ok {
			return unix.Linkat(c.root, first, dst, name, 0)
		}
		c.links[id] = path
	}
	c.usage.Bytes += st.Blocks * 512
	switch kind {
	case unix.S_IFDIR:
		return c.directory(src, dst, name, path, &st)
	case unix.S_IFREG:
		return c.regular(from, dst, name, path, &st)
	case unix.S_IFLNK:
		err = symlink(from, dst, name)
	default: // nobody reads or writes a whiteout, a socket or a pipe by its name alone
		err = unix.Mknodat(dst, name, kind|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	to, err := unix.Openat(dst, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return attributes(file{from, true}, file{to, true}, &st)
}

func (c *copier) directory(src, dst int, name, path string, st *unix.Stat_t) error {
	from, err := openDir(src, name)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if err := unix.Mkdirat(dst, name, 0o700); err != nil {
		return err
	}
	to, err := openDir(dst, name)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := c.entries(from, to, path); err != nil {
		return err
	}
	return attributes(file{fd: from}, file{fd: to}, st) // last: what is made in it changes its time
}

func (c *copier) regular(from, dst int, name, path string, st *unix.Stat_t) error {
	src, err := unix.Open(file{from, true}.path(), unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	to, err := unix.Openat(dst, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := Contents(src, to, st.Size, &c.buf); err != nil {
		return err
	}
	if err := attributes(file{fd: src}, file{fd: to}, st); err != nil || c.mark == nil {
		return err
	}
	return c.mark(path, st, src, to)
}

func symlink(from, dst int, name string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, "", buf)
	if err != nil {
		return err
	}
	return unix.Symlinkat(string(buf[:n]), dst, name)
}
