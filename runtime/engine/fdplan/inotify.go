package fdplan

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NotifyWatch is one watch of an inotify instance.
type NotifyWatch struct {
	WD         int    `json:"wd"`
	Mask       uint32 `json:"mask"`
	Dev        string `json:"dev"` // "major:minor" of the file system
	Inode      uint64 `json:"inode"`
	HandleType int32  `json:"handleType"` // with Handle, how the file system finds the inode
	Handle     []byte `json:"handle"`
}

// inotify plans an inotify instance. Its watches are on inodes: a path that leads to one is not needed.
func (c *Capturer) inotify(fd int) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	p := FD{FD: fd, Kind: Notify}
	if p.Flags, err = openFlags(info); err != nil {
		return err
	}
	if p.Notified, err = parseWatches(info); err != nil {
		return err
	}
	dup, err := unix.PidfdGetfd(c.PIDFD, fd, 0)
	if err != nil {
		return gone(c.PID, err)
	}
	defer unix.Close(dup)
	reason, wayOut, err := notifyProblem(c.PID, dup, p.Notified)
	switch {
	case err != nil:
		return err
	case reason != "":
		c.block(fd, "inotify", reason, wayOut)
	default:
		c.plan.FDs = append(c.plan.FDs, p)
		return c.watchesPrivate(&p)
	}
	return nil
}

// watchesPrivate refuses watches on files of which an instance has its own: they would be on those of the base.
func (c *Capturer) watchesPrivate(p *FD) error {
	if c.Private == nil {
		return nil
	}
	mounts := mounts{pid: c.PID}
	defer mounts.close()
	for i := range p.Notified {
		file, err := mounts.open(&p.Notified[i])
		if err != nil {
			continue // it is gone
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file))
		unix.Close(file)
		if err != nil {
			return err
		}
		if _, private := c.Private.place(link); private {
			c.block(p.FD, "inotify", "it watches "+link+", of which each instance has its own",
				"switch off the service's file watching, or let it watch what is not private")
		}
	}
	return nil
}

// NotifyProblem says why the inotify instance behind descriptor fd, whose fdinfo is info, could not be made anew, and what
// to do about it. reason is "" if it can. dup is the caller's duplicate of it.
func NotifyProblem(pid, dup int, info []byte) (reason, wayOut string, err error) {
	watches, err := parseWatches(info)
	if err != nil {
		return "", "", err
	}
	return notifyProblem(pid, dup, watches)
}

func notifyProblem(pid, dup int, watches []NotifyWatch) (reason, wayOut string, err error) {
	n, err := unix.IoctlGetInt(dup, unix.TIOCINQ)
	if err != nil {
		return "", "", err
	}
	if n > 0 {
		return "events wait in it, which cannot be read without taking them out", "let the service read them first", nil
	}
	return unreachable(pid, watches), "switch off the service's file watching, or let it watch what is on a disk or a tmpfs", nil
}

// parseWatches lists what is watched, in the order of the numbers.
func parseWatches(info []byte) ([]NotifyWatch, error) {
	var out []NotifyWatch
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("inotify ")); ok {
			w, err := parseNotify(string(rest))
			if err != nil {
				return nil, fmt.Errorf("fdinfo line %q: %w", line, err)
			}
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b NotifyWatch) int { return cmp.Compare(a.WD, b.WD) })
	return out, nil
}

// parseNotify parses "wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e00…",
// all in hexadecimal.
func parseNotify(text string) (w NotifyWatch, err error) {
	for f := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(f, ":")
		if key == "f_handle" {
			var e error
			w.Handle, e = hex.DecodeString(value)
			err = errors.Join(err, e)
			continue
		}
		n, e := strconv.ParseUint(value, 16, 64)
		err = errors.Join(err, e)
		switch key {
		case "wd":
			w.WD = int(n)
		case "ino":
			w.Inode = n
		case "sdev": // the kernel's own encoding
			w.Dev = fmt.Sprintf("%d:%d", n>>20, n&(1<<20-1))
		case "mask":
			w.Mask = uint32(n)
		case "fhandle-type":
			w.HandleType = int32(n)
		}
	}
	if err == nil && (w.WD <= 0 || w.Dev == "") {
		err = errors.New("no watch descriptor or device")
	}
	return w, err
}

// unreachable says why the watches could not be made anew; "": they can.
func unreachable(pid int, watches []NotifyWatch) string {
	if len(watches) == 0 {
		return ""
	}
	probe, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return "no inotify instance can be made: " + err.Error()
	}
	defer unix.Close(probe)
	if err := setNextWatch(probe, 1); err != nil {
		return "the kernel cannot give a watch its number (CONFIG_CHECKPOINT_RESTORE): " + err.Error()
	}
	mounts := mounts{pid: pid}
	defer mounts.close()
	for i := range watches {
		w := &watches[i]
		fd, err := mounts.open(w)
		switch {
		case err == nil:
			unix.Close(fd)
		case errors.Is(err, unix.ESTALE): // deleted since, which the next instance will be told
		default:
			return fmt.Sprintf("the file of watch %d, inode %d of device %s, cannot be found again: %v", w.WD, w.Inode, w.Dev, err)
		}
	}
	return ""
}

func setNextWatch(fd, wd int) error {
	const inotifySetNextWD = 0x40044900 // INOTIFY_IOC_SETNEXTWD
	return unix.IoctlSetInt(fd, inotifySetNextWD, wd)
}

// mounts finds inodes in the file systems that a process has mounted.
type mounts struct {
	pid  int
	list map[string][]string // mount points by device
	dirs map[string]int      // one that is open, by device
}

func (m *mounts) close() {
	for _, fd := range m.dirs {
		unix.Close(fd)
	}
}

// open opens the inode of the watch, as with O_PATH. ESTALE: it is gone.
func (m *mounts) open(w *NotifyWatch) (int, error) {
	if len(w.Handle) == 0 {
		return -1, errors.New("its file system has no handles for files")
	}
	h := unix.NewFileHandle(w.HandleType, w.Handle)
	if dir, ok := m.dirs[w.Dev]; ok {
		return unix.OpenByHandleAt(dir, h, unix.O_PATH|unix.O_CLOEXEC)
	}
	if err := m.read(); err != nil {
		return -1, err
	}
	result := fmt.Errorf("device %s is not mounted", w.Dev)
	for _, point := range m.list[w.Dev] {
		// A descriptor that is for reading: O_PATH is not enough here. The mount point of a file or a socket will not do.
		dir, err := unix.Open(fmt.Sprintf("/proc/%d/root%s", m.pid, point), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			result = err
			continue
		}
		fd, err := unix.OpenByHandleAt(dir, h, unix.O_PATH|unix.O_CLOEXEC)
		if errors.Is(err, unix.ESTALE) && isOverlay(dir) { // it says so of all files
			unix.Close(dir)
			return -1, errors.New("an overlay does not find files by their handles")
		}
		if w.proven(dir, fd, err) {
			m.dirs[w.Dev] = dir
			return fd, err
		}
		unix.Close(dir) // another file system is mounted over it
		if result = err; err == nil {
			unix.Close(fd)
			result = errors.New("another file system is mounted over it")
		}
	}
	return -1, result
}

// isOverlay reports whether an open directory is of an overlay file system.
func isOverlay(dir int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// proven reports whether what was looked up by the mount point dir concerns the watch's file system.
func (w *NotifyWatch) proven(dir, fd int, err error) bool {
	var st unix.Stat_t
	if err == nil {
		return unix.Fstat(fd, &st) == nil && st.Ino == w.Inode
	}
	return errors.Is(err, unix.ESTALE) && unix.Fstat(dir, &st) == nil &&
		w.Dev == fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// read reads the process' mountinfo, once.
func (m *mounts) read() error {
	if m.list != nil {
		return nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.pid))
	if err != nil {
		return gone(m.pid, err)
	}
	m.list, m.dirs = map[string][]string{}, map[string]int{}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			m.list[f[2]] = append(m.list[f[2]], unescape.Replace(f[4]))
		}
	}
	return nil
}

// inotify makes an inotify instance with the same watches under the same numbers. What happened to the files since the
// capture is not told, but that one is gone.
func (m *Maker) inotify(p *FD) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | p.Flags&unix.O_NONBLOCK)
	if err := m.add(p, fd, err); err != nil {
		return err
	}
	mounts := mounts{pid: m.Source}
	defer mounts.close()
	for i := range p.Notified {
		w := &p.Notified[i]
		file, err := mounts.open(w)
		gone := errors.Is(err, unix.ESTALE)
		if gone {
			file, err = unix.MemfdCreate("gone", unix.MFD_CLOEXEC)
		}
		if err != nil {
			return fmt.Errorf("watch %d on inode %d of device %s: %w", w.WD, w.Inode, w.Dev, err)
		}
		err = watchAs(fd, file, w)
		if err == nil && gone { // it ends as that of the file did, with IN_IGNORED
			_, err = unix.InotifyRmWatch(fd, uint32(w.WD))
		}
		unix.Close(file)
		if err != nil {
			return fmt.Errorf("watch %d: %w", w.WD, err)
		}
	}
	return nil
}

func watchAs(fd, file int, w *NotifyWatch) error {
	if err := setNextWatch(fd, w.WD); err != nil {
		return err
	}
	got, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", file), w.Mask)
	if err == nil && got != w.WD {
		err = fmt.Errorf("it got the number %d", got)
	}
	return err
}
