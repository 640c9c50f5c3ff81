package upper

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes gives the file to the owner, mode, extended attributes and times of from, whose status is st. Both are paths
// whose last component is followed.
func Attributes(from, to string, st *unix.Stat_t) error {
	var c copier
	return c.attributes(from, to, st)
}

func (c *copier) attributes(from, to string, st *unix.Stat_t) error {
	// The owner first: changing it takes set-user-ID bits and capabilities away.
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if err := c.xattrs(from, to); err != nil {
		return err
	}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
	if err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// xattrs copies extended attributes. to has none but, where the file system inherits them, an access control list.
func (c *copier) xattrs(from, to string) error {
	names, err := listXattrs(from)
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	had, err := listXattrs(to)
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for name := range had {
		if _, ok := names[name]; !ok && strings.HasPrefix(name, "system.posix_acl_") {
			if err := unix.Removexattr(to, name); err != nil {
				return fmt.Errorf("attribute %s: %w", name, err)
			}
		}
	}
	for name := range names {
		value, err := Xattr(from, name)
		if errors.Is(err, unix.ENODATA) {
			continue // listed by a security module, and nobody has set it
		}
		if err == nil {
			err = unix.Setxattr(to, name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func listXattrs(path string) (map[string]struct{}, error) {
	var buf []byte
	for {
		n, err := unix.Listxattr(path, nil)
		if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		buf = make([]byte, n)
		n, err = unix.Listxattr(path, buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
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

// Xattr reads an extended attribute of any size.
func Xattr(path, name string) ([]byte, error) {
	for buf := make([]byte, 256); ; {
		n, err := unix.Getxattr(path, name, buf)
		if errors.Is(err, unix.ERANGE) {
			if n, err = unix.Getxattr(path, name, nil); err == nil {
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
