package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
)

// A container's standard streams may be files of the host, which are on no mount that it has. CRIU calls such a file
// external and knows it by its mount and inode; a restore is given a file for that name, which is the stream of the same number.

// externalStreams adds to d the standard streams of the first process that are files of the host.
func externalStreams(d *criu.Dump) error {
	mounts, err := mountIDs(d.PID)
	if err != nil {
		return err
	}
	for fd := range d.Manifest.Streams {
		name, err := hostFile(d.PID, fd, mounts)
		if err != nil {
			return fmt.Errorf("standard stream %d: %w", fd, err)
		}
		d.Manifest.Streams[fd] = name
		if name != "" && !slices.Contains(d.External, name) {
			d.External = append(d.External, name)
		}
	}
	return nil
}

// hostFile is CRIU's name for descriptor fd of pid if that is a regular file on none of mounts, else "".
func hostFile(pid, fd int, mounts map[uint64]bool) (string, error) {
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), &st)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		value, ok := strings.CutPrefix(line, "mnt_id:")
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err != nil || mounts[id] {
			return "", err
		}
		return fmt.Sprintf("file[%x:%x]", id, st.Ino), nil
	}
	return "", errors.New("fdinfo names no mount")
}

// mountIDs are those of the mounts that pid sees.
func mountIDs(pid int) (map[uint64]bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids := map[uint64]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		first, _, _ := strings.Cut(lines.Text(), " ")
		id, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("mountinfo: %w", err)
		}
		ids[id] = true
	}
	return ids, lines.Err()
}

// inheritStreams gives c the files that take the place of those in the image.
func inheritStreams(c *criu.Restore, m *criu.Manifest) (opened []*os.File, err error) {
	if m == nil {
		return nil, nil
	}
	for fd, name := range m.Streams {
		if name == "" || c.Inherit[name] != nil {
			continue
		}
		f := c.Stdio[fd]
		if f == nil {
			if f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return opened, err
			}
			opened = append(opened, f)
		}
		c.Inherit[name] = f
	}
	return opened, nil
}
