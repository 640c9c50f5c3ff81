package fork

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

var _ engine.Compactor = (*instance)(nil)

// compactOwn is how many pages of a chunk have to be the instance's own before it gets a huge page of its own: that takes four
// times as much memory at the most.
const compactOwn = pagesInHuge / 4

// compaction is what was seen at the last look.
type compaction struct {
	mu   sync.Mutex
	seed maphash.Seed
	seen map[uint64]uint64 // chunk -> hash of which page frames it had
}

// Compact implements engine.Compactor. A chunk that is written to between checkpoints would be split by the next write and
// make every checkpoint hold 2 MiB, so it is left alone until it has the same page frames at two looks: a write after the
// checkpoint in between would have changed one.
func (in *instance) Compact(ctx context.Context) (made int, err error) {
	if p := in.s.target.HugePages; p != spec.HugePagesAuto && p != spec.HugePagesOn {
		return 0, nil
	}
	c := &in.compaction
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := in.a.reopen() // the instance may be ended meanwhile
	if err != nil {
		return 0, err
	}
	defer p.close()
	cold, err := c.cold(p.PID, in.s.base.a.PID)
	if err != nil {
		return 0, err
	}
	for _, at := range cold {
		if err := ctx.Err(); err != nil {
			return made, err
		}
		switch err := collapse(p.pidfd, at, 1); {
		case err == nil:
			made++
		case errors.Is(err, unix.ESRCH):
			return made, gone(p.PID, err)
		}
	}
	return made, nil
}

// cold lists the chunks of process pid that are split, its own for the most part, and as they were at the last look.
func (c *compaction) cold(pid, base int) (cold []uint64, err error) {
	maps, err := readMaps(pid)
	if err != nil {
		return nil, err
	}
	own, err := openPagemap(pid)
	if err != nil {
		return nil, err
	}
	defer own.close()
	own.split = true
	old, err := openPagemap(base)
	if err != nil {
		return nil, err
	}
	defer old.close()
	if c.seen == nil {
		c.seed = maphash.MakeSeed()
	}
	seen := map[uint64]uint64{}
	var theirs, common []uint64
	for _, m := range maps {
		start, end := m.hugeSpan()
		if start >= end {
			continue
		}
		chunks, err := own.chunks(nil, start, end)
		if err != nil {
			return nil, err
		}
		if !own.scans {
			return nil, nil // this kernel does not tell what is split
		}
		for _, x := range chunks {
			if x.pages < compactOwn {
				continue
			}
			if theirs, err = own.entries(theirs[:0], x.at, x.at+hugeSize); err != nil {
				return nil, err
			}
			if common, err = old.entries(common[:0], x.at, x.at+hugeSize); err != nil {
				return nil, err
			}
			n, hash := c.compare(theirs, common)
			switch last, known := c.seen[x.at]; {
			case n < compactOwn:
			case known && last == hash:
				cold = append(cold, x.at)
			default:
				seen[x.at] = hash
			}
		}
	}
	c.seen = seen
	return cold, nil
}

// compare counts the pages that are not those of the base, and hashes where all are.
func (c *compaction) compare(own, base []uint64) (n int, hash uint64) {
	var h maphash.Hash
	h.SetSeed(c.seed)
	for i, e := range own {
		if e&(pagePresent|pageSwapped) != 0 && e&pageWhere != base[i]&pageWhere {
			n++
		}
		maphash.WriteComparable(&h, e&pageWhere)
	}
	return n, h.Sum64()
}
