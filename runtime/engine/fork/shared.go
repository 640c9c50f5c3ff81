package fork

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procmapQuery is struct procmap_query (include/uapi/linux/fs.h, Linux 6.11).
type procmapQuery struct {
	size, flags, addr                       uint64
	start, end, perms, pageSize, off, inode uint64
	major, minor, nameSize, buildIDSize     uint32
	name, buildID                           uint64
}

const (
	ioctlProcmapQuery = 0xc0686611

	procmapShared = 0x08
	procmapNext   = 0x10 // the first one that matches at or behind the address
	procmapFile   = 0x20
)

// sharedAnonymous lists the shared anonymous mappings of a process but those in the arena: fork would leave them shared
// with the child. It is part of a checkpoint's pause.
func sharedAnonymous(pid int, own arena) ([]mapping, error) {
	p := procFiles{pid: pid}
	defer p.close()
	return p.sharedAnonymous(own)
}

// sharedAnonymous is the same for a process whose files are kept open.
func (p *procFiles) sharedAnonymous(own arena) ([]mapping, error) {
	fd, err := p.open(procMaps)
	if err != nil {
		return nil, gone(p.pid, err)
	}
	defer p.done(procMaps, fd)
	out, err := queryShared(fd, own)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return listShared(p.pid, own)
	}
	return out, gone(p.pid, err)
}

// queryShared asks for the mappings that matter. A file with all of them would take the kernel longer to write than
// to fork a small process.
func queryShared(fd int, own arena) ([]mapping, error) {
	var out []mapping
	name := make([]byte, 4096)
	for at := uint64(0); ; {
		q := procmapQuery{
			flags: procmapShared | procmapNext | procmapFile, addr: at,
			nameSize: uint32(len(name)), name: uint64(uintptr(unsafe.Pointer(&name[0]))),
		}
		q.size = uint64(unsafe.Sizeof(q))
		_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), ioctlProcmapQuery, uintptr(unsafe.Pointer(&q)))
		if errors.Is(e, unix.ENOENT) {
			return out, nil
		}
		if e != 0 {
			return nil, e
		}
		m := mapping{Start: q.start, End: q.end, Perms: permissions(q.perms), Path: string(name[:max(q.nameSize, 1)-1])}
		if m.sharedAnonymous() && !own.has(m.Start) {
			out = append(out, m)
		}
		at = q.end
	}
}

func permissions(bits uint64) string {
	b := []byte("---s")
	for i, c := range []byte("rwx") {
		if bits>>i&1 != 0 {
			b[i] = c
		}
	}
	return string(b)
}

// listShared is the same on a kernel without the query.
func listShared(pid int, own arena) ([]mapping, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	var out []mapping
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte("/dev/zero")) {
			continue // most lines: parsing them all would take as long as a checkpoint
		}
		m, err := parseMapping(string(line))
		if err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: %w", pid, err)
		}
		if m.sharedAnonymous() && !own.has(m.Start) {
			out = append(out, m)
		}
	}
	return out, nil
}
