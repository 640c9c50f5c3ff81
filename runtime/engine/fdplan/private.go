package fdplan

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine/upper"
)

// Private are the private directories of the process whose descriptors are captured.
type Private struct {
	Names []string // as /proc shows them, in the order of Target.Private
	Roots []int    // the directories as the process sees them, open
}

// place is where a file is of which /proc shows this name.
func (p *Private) place(link string) (Place, bool) {
	if p == nil {
		return Place{}, false
	}
	for i, name := range p.Names {
		if link == name {
			return Place{Dir: i, Path: "."}, true
		}
		if rest, ok := strings.CutPrefix(link, name+"/"); ok {
			return Place{Dir: i, Path: rest}, true
		}
	}
	return Place{}, false
}

// Has reports whether a file of which /proc shows this name is below a private directory.
func (p *Private) Has(link string) bool {
	_, ok := p.place(link)
	return ok
}

// Locate is where the directory or file is that /proc shows as link and whose status is st. ok is false if it is not below a
// private directory; the error is ErrUnnamed if it was, and has lost the name.
func (p *Private) Locate(link string, st *unix.Stat_t) (place Place, ok bool, err error) {
	if place, ok = p.place(link); !ok {
		return place, false, nil
	}
	fd, err := openBelow(p.Roots[place.Dir], place.Path, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return place, true, ErrUnnamed
	}
	if err != nil {
		return place, true, err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return place, true, err
	}
	if now.Dev != st.Dev || now.Ino != st.Ino {
		return place, true, ErrUnnamed
	}
	return place, true, nil
}

// ErrUnnamed says that a file has lost the name under which it was opened.
var ErrUnnamed = errors.New("deleted or replaced")

// openBelow opens what was found below a directory, by a name without symbolic links.
func openBelow(root int, path string, flags int) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// private plans a file below a private directory.
func (c *Capturer) private(fd int, link string, place Place, st *unix.Stat_t) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	p := FD{FD: fd, Kind: OwnFile, Inode: st.Ino, Place: &place}
	if p.Flags, err = openFlags(info); err != nil {
		return err
	}
	if p.Pos, err = strconv.ParseInt(Field(info, "pos"), 10, 64); err != nil {
		return err
	}
	if p.Locks, err = parseLocks(info); err != nil {
		c.block(fd, link, "an instance could not take a lock that is held on it again: "+err.Error(),
			"let the service release it before it is adopted or a checkpoint is taken")
		return nil
	}
	_, _, err = c.Private.Locate(link, st)
	switch {
	case err == nil:
	case !errors.Is(err, ErrUnnamed):
		return err
	case st.Nlink > 0:
		c.block(fd, link, "the name under which it was opened is gone and it has others, which an instance could not tell",
			"let the service close it before it is adopted or a checkpoint is taken")
		return nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG || p.Flags&unix.O_PATH != 0:
		c.block(fd, link, "it was removed while it is open, so that an instance could not open it anew",
			"let the service close it before it is adopted or a checkpoint is taken")
		return nil
	default:
		place.Path = "."
		p.Saved = fmt.Sprintf("%d-%d", place.Dir, st.Ino)
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

// Save copies the contents of open files that have no name any more to a directory, of which Maker.Saved is to be told. The
// process does not run.
func (p *Plan) Save(pid int, dir string) error {
	done := map[string]bool{}
	for i := range p.FDs {
		f := &p.FDs[i]
		if f.Saved == "" || done[f.Saved] {
			continue
		}
		done[f.Saved] = true
		if err := save(fmt.Sprintf("/proc/%d/fd/%d", pid, f.FD), filepath.Join(dir, f.Saved)); err != nil {
			return fmt.Errorf("fd %d of process %d, a deleted file: save its contents: %w", f.FD, pid, gone(pid, err))
		}
	}
	return nil
}

func save(from, to string) error {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := unix.Open(to, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	return duplicate(src, dst)
}

// duplicate makes an empty file the same as another.
func duplicate(src, dst int) error {
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	var buf []byte
	if err := upper.Contents(src, dst, st.Size, &buf); err != nil {
		return err
	}
	return upper.Attributes(src, dst, &st)
}

func self(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// unnamed makes the file anew that has no name, once for all descriptors of it.
func (m *Maker) unnamed(p *FD) (int, error) {
	if fd, ok := m.revived[p.Saved]; ok {
		return fd, nil
	}
	src, err := unix.Open(filepath.Join(m.Saved, p.Saved), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(src)
	fd, err := unix.Openat(m.Roots[p.Place.Dir], ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("make a file without a name: %w", err)
	}
	m.ours = append(m.ours, fd)
	if m.revived == nil {
		m.revived = map[string]int{}
	}
	m.revived[p.Saved] = fd
	return fd, duplicate(src, fd)
}

// reopenFlags are those of an open file that open(2) takes again.
const reopenFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_SYNC | unix.O_DSYNC | unix.O_DIRECT |
	unix.O_LARGEFILE | unix.O_NOATIME | unix.O_DIRECTORY

// private opens a file of the instance's own.
func (m *Maker) private(p *FD) error {
	flags := p.Flags & reopenFlags
	if p.Flags&unix.O_PATH != 0 {
		flags = unix.O_PATH | unix.O_NOFOLLOW | p.Flags&unix.O_DIRECTORY
	}
	fd, err := m.openOwn(p, flags)
	if err != nil {
		err = fmt.Errorf("%s: %w", p.Place.Path, err)
	}
	if err := m.add(p, fd, err); err != nil || p.Flags&unix.O_PATH != 0 {
		return err
	}
	if _, err = unix.Seek(fd, p.Pos, unix.SEEK_SET); err != nil {
		return err
	}
	return m.lock(p, fd)
}

func (m *Maker) openOwn(p *FD, flags int) (int, error) {
	if p.Saved == "" {
		return openBelow(m.Roots[p.Place.Dir], p.Place.Path, flags)
	}
	file, err := m.unnamed(p)
	if err != nil {
		return -1, err
	}
	return unix.Open(self(file), flags&^unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
