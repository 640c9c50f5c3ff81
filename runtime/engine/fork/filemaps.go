package fork

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// fileMapping is a shared mapping of a private file. A fork leaves it on the file of the instance that was forked; an
// instance maps its own file there instead, which holds the same.
type fileMapping struct {
	Start  uint64       `json:"start"`
	End    uint64       `json:"end"`
	Perms  string       `json:"perms"`
	Offset uint64       `json:"offset"`
	Inode  uint64       `json:"inode"`
	Write  bool         `json:"write,omitempty"` // the file was opened for writing, so that the mapping may become writable
	Place  fdplan.Place `json:"place"`
}

// fileMappings lists the shared mappings of private files. One of a file that has lost its name is refused.
func fileMappings(pid int, view *fdplan.Private, plan *plan) ([]fileMapping, error) {
	maps, err := mappedFiles(pid, true)
	if err != nil {
		return nil, err
	}
	var out []fileMapping
	var blockers []engine.Blocker
	for _, m := range maps {
		link := fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End)
		var st unix.Stat_t
		if !view.Has(m.path) {
			continue
		}
		if err := unix.Stat(link, &st); err != nil {
			return nil, fmt.Errorf("mapping %x of process %d: %w", m.Start, pid, gone(pid, err))
		}
		var mode unix.Stat_t // of the link itself: how the file was opened
		if err := unix.Lstat(link, &mode); err != nil {
			return nil, fmt.Errorf("mapping %x of process %d: %w", m.Start, pid, gone(pid, err))
		}
		m.Inode, m.Write = st.Ino, mode.Mode&0o200 != 0
		place, _, err := view.Locate(m.path, &st)
		if errors.Is(err, fdplan.ErrUnnamed) {
			place.Path = "." // as that of an open file without a name
			m.Place = place
			if _, ok := plan.mapper(&m.fileMapping); ok {
				err = nil
			}
		}
		if errors.Is(err, fdplan.ErrUnnamed) {
			blockers = append(blockers, engine.Blocker{
				Object: fmt.Sprintf("mapping %x-%x (%s)", m.Start, m.End, m.path),
				Reason: "the file was deleted or replaced while it is mapped, so that an instance could not map its own",
				WayOut: "let the service unmap it before it is adopted or a checkpoint is taken, or keep it open",
			})
			continue
		}
		if err != nil {
			return nil, err
		}
		m.Place = place
		out = append(out, m.fileMapping)
	}
	if len(blockers) > 0 {
		return nil, &engine.Refusal{PID: pid, Blockers: blockers}
	}
	return out, nil
}

// namedMapping is a mapping with the name of its file.
type namedMapping struct {
	fileMapping
	path string
}

// mappedFiles lists the mappings that have a file: those that are shared, or those that are not.
func mappedFiles(pid int, shared bool) ([]namedMapping, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/maps", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, gone(pid, err)
	}
	defer unix.Close(fd)
	flags := uint64(procmapNext | procmapFile)
	if shared {
		flags |= procmapShared
	}
	var out []namedMapping
	name := make([]byte, 4096)
	for at := uint64(0); ; {
		q := procmapQuery{flags: flags, addr: at, nameSize: uint32(len(name)), name: uint64(uintptr(unsafe.Pointer(&name[0])))}
		q.size = uint64(unsafe.Sizeof(q))
		_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), ioctlProcmapQuery, uintptr(unsafe.Pointer(&q)))
		switch {
		case errors.Is(e, unix.ENOENT):
			return out, nil
		case errors.Is(e, unix.ENOTTY):
			return listMappedFiles(pid, shared)
		case e != 0:
			return nil, fmt.Errorf("mappings of process %d: %w", pid, gone(pid, e))
		}
		if shared == (q.perms&procmapShared != 0) {
			out = append(out, namedMapping{
				fileMapping{Start: q.start, End: q.end, Perms: permissions(q.perms), Offset: q.off}, string(name[:max(q.nameSize, 1)-1]),
			})
		}
		at = q.end
	}
}

// listMappedFiles is the same on a kernel without the query.
func listMappedFiles(pid int, shared bool) ([]namedMapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	var out []namedMapping
	for line := range strings.Lines(string(text)) {
		m, err := parseMapping(line)
		if err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: %w", pid, err)
		}
		if shared != (m.Perms[3] == 's') || !strings.HasPrefix(m.Path, "/") {
			continue
		}
		n := namedMapping{fileMapping: fileMapping{Start: m.Start, End: m.End, Perms: m.Perms}}
		if _, err := fmt.Sscanf(strings.Fields(line)[2], "%x", &n.Offset); err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: offset in %q: %w", pid, line, err)
		}
		// A name may have blanks in it: it is what is left, from the first slash on.
		_, rest, _ := strings.Cut(line, "/")
		n.path = "/" + strings.TrimSuffix(rest, "\n")
		out = append(out, n)
	}
	return out, nil
}

// privatePages are the mappings by which the pages of a file that is an instance's own get into memory that is private: until
// they are written, they are the file's. The image needs pages of its own, as the instance may write to the file.
func (p *privateFiles) privatePages(pid int) ([]fileMapping, error) {
	if p == nil {
		return nil, nil
	}
	maps, err := mappedFiles(pid, false)
	if err != nil {
		return nil, err
	}
	view := fdplan.Private{Names: p.names}
	var out []fileMapping
	for _, m := range maps {
		if !view.Has(m.path) {
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End), &st)
		if err != nil {
			return nil, fmt.Errorf("mapping %x of process %d: %w", m.Start, pid, gone(pid, err))
		}
		if slices.Contains(p.devs, st.Dev) || uint64(st.Size) <= m.Offset {
			continue // mapped before the adoption: nobody writes to that file any more; or there is nothing
		}
		m.End = min(m.End, m.Start+(uint64(st.Size)-m.Offset+pageSize-1)&^(pageSize-1))
		out = append(out, m.fileMapping)
	}
	return out, nil
}

// ownPages makes the child of a fork have pages of its own in these mappings. The parent must not run before that is done.
func ownPages(maps []fileMapping) forkBatch {
	return func(b *batch) {
		for i := range maps {
			m := &maps[i]
			n, prot := m.End-m.Start, protection(m.Perms)
			writable := prot&unix.PROT_WRITE != 0
			if !writable {
				b.call(unix.SYS_MPROTECT, m.Start, n, unix.PROT_READ|unix.PROT_WRITE)
			}
			b.call(unix.SYS_MADVISE, m.Start, n, unix.MADV_POPULATE_WRITE)
			if !writable {
				b.call(unix.SYS_MPROTECT, m.Start, n, prot)
			}
		}
	}
}

// mapFiles makes a new instance, which has its descriptors and no threads yet, map its own files.
func (in *instance) mapFiles(ctx context.Context, m *image) error {
	if len(m.maps) == 0 {
		return nil
	}
	b := in.a.batch()
	for i := range m.maps {
		f := &m.maps[i]
		var fd any
		opened := ref(0)
		if n, ok := m.plan.mapper(f); ok {
			fd = n
		} else {
			how := unix.O_RDONLY
			if f.Write {
				how = unix.O_RDWR
			}
			opened = b.call(unix.SYS_OPEN, b.putString(filepath.Join(in.s.files.paths[f.Place.Dir], f.Place.Path)), how|unix.O_CLOEXEC, 0)
			fd = opened
		}
		b.call(unix.SYS_MMAP, f.Start, f.End-f.Start, protection(f.Perms), unix.MAP_SHARED|unix.MAP_FIXED, fd, f.Offset)
		if opened != 0 {
			b.call(unix.SYS_CLOSE, opened)
		}
		if len(b.entries) >= 3*sendChunk {
			if _, err := in.a.exec(ctx, b); err != nil {
				return fmt.Errorf("map private files: %w", err)
			}
			b = in.a.batch()
		}
	}
	if _, err := in.a.exec(ctx, b); err != nil {
		return fmt.Errorf("map private files: %w", err)
	}
	return nil
}

// mapper finds a descriptor by which the file can be mapped.
func (p *plan) mapper(f *fileMapping) (int, bool) {
	for i := range p.FDs {
		d := &p.FDs[i]
		if d.Kind != fdplan.OwnFile || d.Inode != f.Inode || *d.Place != f.Place || d.Flags&unix.O_PATH != 0 {
			continue
		}
		if access := d.Flags & unix.O_ACCMODE; access == unix.O_RDWR || access == unix.O_RDONLY && !f.Write {
			return d.FD, true
		}
	}
	return 0, false
}
