package fork

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// An instance that has just been branched has the page table of a fork: what is written to is copied at the first write, and what
// is of a file is not mapped at all. A request to redis takes some 150 faults for that, which are most of the time until it is
// answered. Instances of one service use much the same pages for it, so what one has used tells what the next ones will.

var _ engine.Warmer = (*service)(nil)

const (
	warmPages  = 512 // that are written to, of an instance that nobody has yet
	warmSpans  = 300 // of each kind: what fits a batch
	warmRecent = 8   // the looks that count
	nearPages  = 16  // of a file: pages between two in use that are mapped with them, as the kernel's own faults do
)

// workingSet is what instances have been found to use.
type workingSet struct {
	mu      sync.Mutex
	looks   int
	written map[uint64]int // page -> in how many looks it was an instance's own
	read    []span         // of files, at the last look
}

// Learn implements engine.Warmer.
func (s *service) Learn(inst engine.Instance) error {
	in, ok := inst.(*instance)
	if !ok || in.s != s {
		return fmt.Errorf("instance %T belongs to another service", inst)
	}
	p, err := openPagemap(in.a.PID) // the anchor's memory is the instance's, and outlives its threads
	if err != nil {
		return err
	}
	defer p.close()
	written, read, err := p.used()
	if err == nil && p.scans {
		s.uses.note(written, read)
	}
	return err
}

// note takes in one look. Of older ones ever less is kept.
func (w *workingSet) note(written []uint64, read []span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written == nil {
		w.written = map[uint64]int{}
	}
	if w.looks >= warmRecent {
		w.looks /= 2
		for at, n := range w.written {
			if n /= 2; n > 0 {
				w.written[at] = n
			} else {
				delete(w.written, at)
			}
		}
	}
	w.looks++
	for _, at := range written {
		w.written[at]++
	}
	if len(read) > 0 {
		w.read = read
	}
}

// expected is what most of the instances used: pages that they wrote to, and what they read of files.
func (w *workingSet) expected() (written, read []span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pages := make([]uint64, 0, len(w.written))
	for at, n := range w.written {
		if 2*n >= w.looks {
			pages = append(pages, at)
		}
	}
	slices.Sort(pages)
	for _, at := range pages[:min(len(pages), warmPages)] {
		written = extend(written, span{at, at + pageSize}, 0)
	}
	return written[:min(len(written), warmSpans)], w.read[:min(len(w.read), warmSpans)]
}

// extend appends x to spans, or makes the last one longer if x begins no further than gap behind it.
func extend(spans []span, x span, gap uint64) []span {
	if n := len(spans); n > 0 && x.start <= spans[n-1].end+gap {
		spans[n-1].end = max(x.end, spans[n-1].end)
		return spans
	}
	return append(spans, x)
}

// Warm implements engine.Warmer.
func (s *service) Warm(ctx context.Context, inst engine.Instance) error {
	in, ok := inst.(*instance)
	if !ok || in.s != s {
		return fmt.Errorf("instance %T belongs to another service", inst)
	}
	written, read := s.uses.expected()
	b := in.a.batch()
	// Any of it may not be there in this instance: that is no error.
	for _, x := range read {
		b.try(unix.SYS_MADVISE, x.start, x.end-x.start, unix.MADV_POPULATE_READ)
	}
	for _, x := range written {
		b.try(unix.SYS_MADVISE, x.start, x.end-x.start, unix.MADV_POPULATE_WRITE)
	}
	ctx, cancel := context.WithTimeout(ctx, opPatience)
	defer cancel()
	err := s.guard(in.a, func() error {
		_, err := in.a.exec(ctx, b)
		return err
	})
	if err != nil {
		return fmt.Errorf("take faults of instance %d ahead: %w", in.PID(), err)
	}
	return nil
}

const (
	pageOnce = 1 << 56 // of an entry of a page table: no other process has the page
	userEnd  = 1<<47 - pageSize
)

// used lists the private pages that the process alone has, and where it has pages of files. Huge pages are left out: to write to one
// splits it. Without PAGEMAP_SCAN there is nothing: to read all entries takes too long.
func (p *pagemap) used() (written []uint64, read []span, err error) {
	regions, err := p.scan(0, userEnd, wanted{some: scanPresent, apart: scanFile | scanHuge})
	if err != nil {
		return nil, nil, err
	}
	var entries []uint64
	for _, r := range regions {
		switch {
		case r.categories&scanHuge != 0:
		case r.categories&scanFile != 0:
			read = extend(read, span{r.start, r.end}, nearPages*pageSize)
		default:
			for at := r.start; at < r.end; at += hugeSize {
				if entries, err = p.entries(entries[:0], at, min(r.end, at+hugeSize)); err != nil {
					return nil, nil, err
				}
				for i, e := range entries {
					if e&pagePresent != 0 && e&pageOnce != 0 {
						written = append(written, at+uint64(i)*pageSize)
					}
				}
			}
		}
	}
	return written, read, nil
}
