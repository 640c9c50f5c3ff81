package fork

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A program may compare the inode number of a file with the one that it has noted (sqlite does, before it writes). Files of the
// lower directory keep theirs: the overlay notes a copied file's origin and shows its number. A file that an instance has
// made itself is a different inode in each copy of its tree, so copies get an origin, too: the inode that the instance has
// made. As long as a tree has such an origin that inode is kept, in dir/kept once the instance has ended.

const originXattr = "trusted.overlay.origin"

// originHeader is the size of what precedes the file handle in an origin: version, magic, length, flags, type of the handle, and
// the UUID of the file system (struct ovl_fb in fs/overlayfs/overlayfs.h).
const (
	originHeader = 21
	originLen    = 2
	originType   = 4
)

// origins makes origins of inodes of one file system.
type origins struct{ header []byte }

// learnOrigins has the kernel make an origin in dir, where the engine's namespace is ns. nil: files there cannot be one.
func learnOrigins(ns int, dir string) (o *origins, err error) {
	at, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(at)) }()
	for _, d := range []string{"lower", "none", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(at, d), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(at, "lower", "f"), nil, 0o600); err != nil {
		return nil, err
	}
	err = onThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the engine's mount namespace: %w", err)
		}
		if err := unix.Chdir(at); err != nil {
			return err
		}
		m, err := overlay("lower", "none", ".")
		if err != nil {
			return err
		}
		defer unix.Close(m)
		f, err := unix.Openat(m, "f", unix.O_RDWR|unix.O_CLOEXEC, 0) // copies it up
		if err == nil {
			err = unix.Close(f)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	made := make([]byte, 256) // the kernel makes none that is longer
	n, err := unix.Getxattr(filepath.Join(at, "upper", "f"), originXattr, made)
	if errors.Is(err, unix.ENODATA) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	made = made[:n]
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(at, "lower", "f"), 0)
	if err != nil || len(made) < originHeader || int(made[originType]) != int(h.Type()) ||
		!bytes.Equal(bytes.TrimRight(made[originHeader:], "\x00"), bytes.TrimRight(h.Bytes(), "\x00")) {
		return nil, nil
	}
	return &origins{made[:originHeader]}, nil
}

// mark gives the copy to the origin from, whose status is st, unless from has one itself. false: it has not done so.
func (o *origins) mark(st *unix.Stat_t, from, to int) (bool, error) {
	if o == nil || st.Nlink != 1 { // the overlay does not trust an origin with several names
		return false, nil
	}
	if _, err := unix.Fgetxattr(from, originXattr, nil); !errors.Is(err, unix.ENODATA) {
		return false, err
	}
	h, _, err := unix.NameToHandleAt(from, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return false, fmt.Errorf("file handle: %w", err)
	}
	v := append(bytes.Clone(o.header), h.Bytes()...)
	v[originLen], v[originType] = byte(len(v)), byte(h.Type())
	if err := unix.Fsetxattr(to, originXattr, v, 0); err != nil {
		return false, fmt.Errorf("attribute %s: %w", originXattr, err)
	}
	return true, nil
}

func (p *privateFiles) keptDir() string { return filepath.Join(p.dir, "kept") }

// keep puts aside those files of a tree that other trees have as an origin, wanted by their inode numbers.
func (p *privateFiles) keep(t tree, wanted map[uint64]bool) error {
	if len(wanted) == 0 {
		return nil
	}
	for i := range p.paths {
		err := filepath.WalkDir(p.upper(t, i), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // it was removed in part already
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil || !wanted[st.Ino] || st.Nlink != 1 {
				return err
			}
			if err := os.Mkdir(p.keptDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return os.Rename(path, filepath.Join(p.keptDir(), strconv.FormatUint(st.Ino, 10)))
		})
		if err != nil {
			return fmt.Errorf("keep the inodes of private files: %w", err)
		}
	}
	return nil
}

// letGo frees the files that were put aside and that no tree has as an origin any more.
func (p *privateFiles) letGo(wanted map[uint64]bool) error {
	entries, err := os.ReadDir(p.keptDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if ino, e2 := strconv.ParseUint(e.Name(), 10, 64); e2 != nil || !wanted[ino] {
			err = errors.Join(err, os.Remove(filepath.Join(p.keptDir(), e.Name())))
		}
	}
	return err
}
