package upper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// file is an open file.
type file struct {
	fd   int
	byID bool // it was opened by O_PATH: system calls that take a descriptor refuse it
}

// path names the file, also a symbolic link: system calls that take a path do not follow that one any further.
func (f file) path() string { return "/proc/self/fd/" + strconv.Itoa(f.fd) }

func (f file) chown(uid, gid int) error {
	if f.byID {
		return unix.Chown(f.path(), uid, gid)
	}
	return unix.Fchown(f.fd, uid, gid)
}

func (f file) chmod(mode uint32) error {
	if f.byID {
		return unix.Chmod(f.path(), mode)
	}
	return unix.Fchmod(f.fd, mode)
}

func (f file) setTimes(atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.path(), []unix.Timespec{atime, mtime}, 0)
}

func (f file) list(buf []byte) (int, error) {
	if f.byID {
		return unix.Listxattr(f.path(), buf)
	}
	return unix.Flistxattr(f.fd, buf)
}

func (f file) get(name string, buf []byte) (int, error) {
	if f.byID {
		return unix.Getxattr(f.path(), name, buf)
	}
	return unix.Fgetxattr(f.fd, name, buf)
}

func (f file) set(name string, value []byte) error {
	if f.byID {
		return unix.Setxattr(f.path(), name, value, 0)
	}
	return unix.Fsetxattr(f.fd, name, value, 0)
}

func (f file) unset(name string) error {
	if f.byID {
		return unix.Removexattr(f.path(), name)
	}
	return unix.Fremovexattr(f.fd, name)
}

// Attributes gives the file to the owner, mode, extended attributes and times of from, whose status is st. Both are open, not
// by O_PATH.
func Attributes(from, to int, st *unix.Stat_t) error {
	return attributes(file{fd: from}, file{fd: to}, st)
}

func attributes(from, to file, st *unix.Stat_t) error {
	// The owner first: changing it takes set-user-ID bits and capabilities away.
	if err := to.chown(int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := to.chmod(st.Mode & 0o7777); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if err := to.setTimes(st.Atim, st.Mtim); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// copyXattrs copies extended attributes. to has none but, where the file system inherits them, an access control list.
func copyXattrs(from, to file) error {
	names, err := from.xattrs()
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	had, err := to.xattrs()
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for name := range had {
		if _, ok := names[name]; !ok && strings.HasPrefix(name, "system.posix_acl_") {
			if err := to.unset(name); err != nil {
				return fmt.Errorf("attribute %s: %w", name, err)
			}
		}
	}
	for name := range names {
		value, err := from.xattr(name)
		if errors.Is(err, unix.ENODATA) {
			continue // listed by a security module, and nobody has set it
		}
		if err == nil {
			err = to.set(name, value)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func (f file) xattrs() (map[string]struct{}, error) {
	var small [512]byte
	for buf := small[:]; ; {
		n, err := f.list(buf)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0:
			return nil, nil
		case errors.Is(err, unix.ERANGE):
			if n, err = f.list(nil); err != nil {
				return nil, err
			}
			buf = make([]byte, n+256)
			continue
		case err != nil:
			return nil, err
		}
		names := map[string]struct{}{}
		for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
			if name != "" {
				names[name] = struct{}{}
			}
		}
		return names, nil
	}
}

// xattr reads an extended attribute of any size.
func (f file) xattr(name string) ([]byte, error) {
	for buf := make([]byte, 256); ; {
		n, err := f.get(name, buf)
		if errors.Is(err, unix.ERANGE) {
			if n, err = f.get(name, nil); err == nil {
				buf = make([]byte, n+256)
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
