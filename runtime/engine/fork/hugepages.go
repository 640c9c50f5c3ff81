package fork

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

// A fork copies one entry for a huge page where it copies 512 for small ones, and what is written to later is still duplicated
// page by page. So the engine has the kernel put a service's memory into huge pages before it is adopted: the adopted
// process, the base and all that is forked from it share them.

const (
	hugeSize     = 2 << 20
	pagesInHuge  = hugeSize / pageSize
	hugeEnough   = 16 << 20            // bytes of dense memory below which auto leaves a service alone
	hugeDensity  = pagesInHuge * 7 / 8 // pages in use that make a huge page worth while for auto
	hugeRun      = 16                  // chunks in one call: each makes the kernel empty the lists of all CPUs first
	madvCollapse = 25                  // MADV_COLLAPSE, Linux 6.1
)

// collapsed says what making huge pages has done.
type collapsed struct {
	Chunks int   // huge pages made
	Failed int   // chunks that the kernel left as they were
	Grown  int64 // bytes of memory that were not in use before
}

// chunk is memory that could be a huge page.
type chunk struct {
	at    uint64
	pages int // of it in use
}

// hugePages puts the memory of the service, which runs on meanwhile, into huge pages as the policy says. What the kernel does
// not do, for want of memory or because it cannot, is left as it is. Faults of the service on a chunk wait while that is copied: some ms.
func hugePages(ctx context.Context, p process, policy spec.HugePages) (done collapsed, err error) {
	if policy != spec.HugePagesAuto && policy != spec.HugePagesOn {
		return done, nil
	}
	chunks, err := hugeChunks(p.PID)
	if err != nil {
		return done, err
	}
	if policy == spec.HugePagesAuto {
		dense := chunks[:0]
		for _, c := range chunks {
			if c.pages >= hugeDensity {
				dense = append(dense, c)
			}
		}
		if chunks = dense; len(chunks)*hugeSize < hugeEnough {
			return done, nil
		}
	}
	for len(chunks) > 0 {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n := 1
		for n < min(len(chunks), hugeRun) && chunks[n].at == chunks[n-1].at+hugeSize {
			n++
		}
		if err := done.run(p, chunks[:n]); err != nil {
			return done, err
		}
		chunks = chunks[n:]
	}
	return done, nil
}

// run collapses chunks that follow each other, together if that can be done.
func (d *collapsed) run(p process, chunks []chunk) error {
	err := collapse(p.pidfd, chunks[0].at, len(chunks))
	switch {
	case err == nil:
		d.Chunks += len(chunks)
		for _, c := range chunks {
			d.Grown += int64(pagesInHuge-c.pages) * pageSize
		}
	case errors.Is(err, unix.ESRCH):
		return gone(p.PID, err)
	case len(chunks) == 1:
		d.Failed++
	default: // it says nothing of those that could be collapsed
		for i := range chunks {
			if err := d.run(p, chunks[i:i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// enlarge makes huge pages of the memory of the service that is about to be adopted. Failing to is no reason not to.
func (s *service) enlarge(ctx context.Context) {
	log, start := s.target.Log.WithField("service", s.process.PID), time.Now()
	done, err := hugePages(ctx, s.process, s.target.HugePages)
	if err != nil {
		log.WithError(err).Warn("cannot make huge pages of the service's memory")
	}
	if done != (collapsed{}) {
		log.WithFields(logrus.Fields{
			"made": done.Chunks, "failed": done.Failed, "grown": done.Grown, "took": time.Since(start),
		}).Info("the service's memory is in huge pages")
	}
}

// collapse makes n huge pages of what is at the address. Already being some is no error.
func collapse(pidfd int, at uint64, n int) error {
	iov := unix.RemoteIovec{Base: uintptr(at), Len: n * hugeSize}
	for {
		_, _, e := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd), uintptr(unsafe.Pointer(&iov)), 1, madvCollapse, 0, 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("collapse %#x: %w", at, e)
		}
	}
}

// hugeChunks lists where the process has private anonymous memory that a huge page could hold.
func hugeChunks(pid int) ([]chunk, error) {
	maps, err := readMaps(pid)
	if err != nil {
		return nil, err
	}
	pm, err := openPagemap(pid)
	if err != nil {
		return nil, err
	}
	defer pm.close()
	var out []chunk
	for _, m := range maps {
		start, end := m.hugeSpan()
		if start >= end {
			continue
		}
		if out, err = pm.chunks(out, start, end); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// hugeSpan is the part of the mapping that huge pages could hold; none if start is not below end.
func (m mapping) hugeSpan() (start, end uint64) {
	if !m.collapsible() {
		return 0, 0
	}
	return (m.Start + hugeSize - 1) &^ (hugeSize - 1), m.End &^ (hugeSize - 1)
}

// collapsible reports whether the mapping is private, writable and of no file, and no stack: what a stack will have use for is not
// known.
func (m mapping) collapsible() bool {
	return strings.HasPrefix(m.Perms, "rw-p") && (m.Path == "" || m.Path == "[heap]" || strings.HasPrefix(m.Path, "[anon:"))
}

// chunks appends the chunks between start and end, which are aligned to huge pages, of which anything is in use.
func (p *pagemap) chunks(out []chunk, start, end uint64) ([]chunk, error) {
	spans, err := p.private(start, end)
	if err != nil {
		return nil, err
	}
	first := len(out)
	add := func(at uint64, pages int) {
		at &^= hugeSize - 1
		if n := len(out); n > first && out[n-1].at == at {
			out[n-1].pages += pages
			return
		}
		out = append(out, chunk{at, pages})
	}
	var entries []uint64
	for _, s := range spans {
		for at := s.start; at < s.end; {
			next := min(s.end, (at+hugeSize)&^(hugeSize-1))
			n := int(next-at) / pageSize
			if !p.scans {
				if entries, err = p.entries(entries[:0], at, next); err != nil && !errors.Is(err, engine.ErrHidden) {
					return nil, err
				}
				n = 0
				for _, e := range entries {
					if e&(pagePresent|pageSwapped) != 0 {
						n++
					}
				}
			}
			if n > 0 {
				add(at, n)
			}
			at = next
		}
	}
	return out, nil
}
