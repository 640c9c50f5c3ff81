package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// Bits of an entry of /proc/PID/pagemap.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61   // or of shared anonymous memory
	pageFrame   = 1<<55 - 1 // mask: the page frame, or the place in swap
	pageWhere   = pagePresent | pageSwapped | pageFrame
)

// pagemap is the page table of a process.
type pagemap struct {
	pid     int
	file    *os.File
	buf     []byte
	split   bool         // private leaves out huge pages
	scans   bool         // private knows what is there
	regions []scanRegion // the kernel writes here by address: it must not be on a stack, which may move
}

func openPagemap(pid int) (*pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("process %d: %w: %w", pid, engine.ErrHidden, err)
	}
	if err != nil {
		return nil, gone(pid, err)
	}
	return &pagemap{pid: pid, file: f, regions: make([]scanRegion, 256), scans: true}, nil
}

func (p *pagemap) close() { _ = p.file.Close() } // only read

// entries appends those of the pages from start to end, which are aligned, to out.
func (p *pagemap) entries(out []uint64, start, end uint64) ([]uint64, error) {
	n := int(end-start) / pageSize * 8
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	b := p.buf[:n]
	if _, err := p.file.ReadAt(b, int64(start/pageSize*8)); err != nil {
		// A process that has died has an empty one.
		return nil, fmt.Errorf("page table of process %d: %w: %w", p.pid, engine.ErrGone, err)
	}
	for ; len(b) > 0; b = b[8:] {
		e := binary.NativeEndian.Uint64(b)
		if e&pagePresent != 0 && e&pageFrame == 0 {
			return nil, fmt.Errorf("process %d: %w", p.pid, engine.ErrHidden)
		}
		out = append(out, e)
	}
	return out, nil
}

// span is a range of addresses.
type span struct{ start, end uint64 }

// scanArg is struct pm_scan_arg of linux/fs.h.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages     uint64
	categoryInverted, categoryMask, categoryAnyMask, returnMask uint64
}

// scanRegion is struct page_region.
type scanRegion struct{ start, end, categories uint64 }

// Categories of PAGEMAP_SCAN (Linux 6.7).
const (
	scanFile    = 1 << 2
	scanPresent = 1 << 3
	scanSwapped = 1 << 4
	scanHuge    = 1 << 6
)

// private lists where between start and end the process has pages of its own or shared by fork. On a kernel without
// PAGEMAP_SCAN that is all of it: then holes are read, too, entry by entry.
func (p *pagemap) private(start, end uint64) ([]span, error) {
	not := uint64(scanFile)
	if p.split {
		not |= scanHuge
	}
	regions, err := p.scan(start, end, wanted{not, scanPresent | scanSwapped, scanPresent})
	if err != nil {
		return nil, err
	}
	if !p.scans {
		return []span{{start, end}}, nil
	}
	out := make([]span, len(regions))
	for i, r := range regions {
		out[i] = span{r.start, r.end}
	}
	return out, nil
}

// wanted says which pages to scan for: those that are in none of the categories not and in one of some, told apart by apart.
type wanted struct{ not, some, apart uint64 }

// scan lists them between start and end. On a kernel that cannot do that p.scans is false afterwards.
func (p *pagemap) scan(start, end uint64, w wanted) ([]scanRegion, error) {
	const request = 0xc0606610 // PAGEMAP_SCAN: _IOWR('f', 16, struct pm_scan_arg)
	var out []scanRegion
	for start < end {
		arg := scanArg{
			start: start, end: end, vec: uint64(uintptr(unsafe.Pointer(&p.regions[0]))), vecLen: uint64(len(p.regions)),
			categoryInverted: w.not, categoryMask: w.not, categoryAnyMask: w.some, returnMask: w.apart,
		}
		arg.size = uint64(unsafe.Sizeof(arg))
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, p.file.Fd(), request, uintptr(unsafe.Pointer(&arg)))
		switch errno {
		case 0:
		case unix.ENOTTY:
			p.scans = false
			return nil, nil
		case unix.EINTR:
			continue
		default:
			return nil, gone(p.pid, fmt.Errorf("scan the page table of process %d: %w", p.pid, errno))
		}
		out = append(out, p.regions[:n]...)
		start = arg.walkEnd
	}
	return out, nil
}
