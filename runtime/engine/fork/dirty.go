package fork

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

const (
	compareEntries = 8192 // of a page table at once
	comparePages   = 64   // whose contents are read at once
)

var _ engine.Comparer = (*image)(nil)

// comparison counts the pages of one image that are not those of another.
type comparison struct {
	own, old       *pagemap
	ownPTE, oldPTE []uint64
	ownMem, oldMem []byte
	dirty          int64
}

// Dirty implements engine.Comparer. Fork leaves pages common to parent and child until one of them writes, so most are
// known to be the same by their frames alone. Contents are compared only where frames differ: a page may have been moved,
// into a huge page for example, or written with what it held already.
func (m *image) Dirty(parent engine.Image) (int64, error) {
	p, ok := parent.(*image)
	if !ok || p.s != m.s {
		return 0, fmt.Errorf("image %T belongs to another service", parent)
	}
	maps, err := readMaps(m.a.PID)
	if err != nil {
		return 0, err
	}
	c := comparison{ownMem: make([]byte, comparePages*pageSize), oldMem: make([]byte, comparePages*pageSize)}
	if c.own, err = openPagemap(m.a.PID); err != nil {
		return 0, err
	}
	defer c.own.close()
	if c.old, err = openPagemap(p.a.PID); err != nil {
		return 0, err
	}
	defer c.old.close()
	arena := span{uint64(m.a.arena), uint64(m.a.arena) + arenaSize}
	for _, mp := range maps {
		switch {
		case mp.Start >= arena.start && mp.Start < arena.end: // the engine's
		case mp.sharedAnonymous():
			err = c.shared(mp, p.shared)
		case mp.Perms[3] == 's', strings.HasPrefix(mp.Path, "[v"): // common to all instances; vdso, vvar, vsyscall
		default:
			err = c.private(mp)
		}
		if err != nil {
			return 0, err
		}
	}
	// A parent that died meanwhile would look empty.
	if err := errors.Join(m.a.verify(), p.a.verify()); err != nil {
		return 0, err
	}
	return c.dirty, nil
}

// shared compares a shared anonymous mapping. Each image has a copy of its own: frames say nothing.
func (c *comparison) shared(m mapping, old []mapping) error {
	had := slices.ContainsFunc(old, func(o mapping) bool { return o.Start <= m.Start && m.End <= o.End })
	return c.contents(span{m.Start, m.End}, had, false)
}

// private compares a private mapping by page frames first.
func (c *comparison) private(m mapping) error {
	spans, err := c.own.private(m.Start, m.End)
	if err != nil {
		return err
	}
	for _, s := range spans {
		for at := s.start; at < s.end; at += compareEntries * pageSize {
			end := min(s.end, at+compareEntries*pageSize)
			if c.ownPTE, err = c.own.entries(c.ownPTE[:0], at, end); err != nil {
				return err
			}
			if c.oldPTE, err = c.old.entries(c.oldPTE[:0], at, end); err != nil {
				return err
			}
			if err := c.entries(at, strings.HasPrefix(m.Path, "/")); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries compares what was read of the page tables for the pages from at on, in runs of the same kind.
func (c *comparison) entries(at uint64, ofFile bool) error {
	const same, differs, added = 0, 1, 2
	kind := func(i int) int {
		own, old := c.ownPTE[i], c.oldPTE[i]
		switch {
		case own&(pagePresent|pageSwapped) == 0, own&pageOfFile != 0, own&pageWhere == old&pageWhere:
			return same
		case old&(pagePresent|pageSwapped) == 0:
			return added
		}
		return differs
	}
	for i := 0; i < len(c.ownPTE); {
		k, j := kind(i), i+1
		for j < len(c.ownPTE) && kind(j) == k {
			j++
		}
		if k != same {
			run := span{at + uint64(i)*pageSize, at + uint64(j)*pageSize}
			if err := c.contents(run, k == differs, ofFile); err != nil {
				return err
			}
		}
		i = j
	}
	return nil
}

// contents compares pages byte by byte. had says that the other image has them, too. If it has not, they held zeroes
// there, or, in a mapping of a file, what the file holds: then they have been written, else they would be the file's.
func (c *comparison) contents(s span, had, ofFile bool) error {
	if !had && ofFile {
		c.dirty += int64(s.end-s.start) / pageSize
		return nil
	}
	for at := s.start; at < s.end; at += comparePages * pageSize {
		n := min(s.end-at, comparePages*pageSize)
		own, old := c.ownMem[:n], c.oldMem[:n]
		err := readMem(c.own.pid, at, own)
		if err == nil && had {
			err = readMem(c.old.pid, at, old)
		} else if err == nil {
			clear(old)
		}
		if errors.Is(err, unix.EFAULT) {
			c.dirty += int64(n) / pageSize // not readable for the service, either: frames are all there is
			continue
		}
		if err != nil {
			return gone(c.own.pid, err)
		}
		for i := 0; i < len(own); i += pageSize {
			if !bytes.Equal(own[i:i+pageSize], old[i:i+pageSize]) {
				c.dirty++
			}
		}
	}
	return nil
}
