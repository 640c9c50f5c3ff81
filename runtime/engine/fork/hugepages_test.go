package fork

import (
	"fmt"
	"testing"

	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

func needsCollapse(t *testing.T) {
	t.Helper()
	if p := check.Host("").Find("madv-collapse"); p == nil || p.Result != check.Yes {
		t.Skip("madv-collapse: this kernel cannot move memory to huge pages from outside (Linux 6.1)")
	}
}

// dense is 48 MiB of which each page is in use and says where it is.
const dense = `
import mmap
m = mmap.mmap(-1, 48 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, len(m), 4096):
    m[i:i+8] = i.to_bytes(8, "little")
`

// intact counts the pages that hold something else than they should.
const intact = `sum(m[i:i+8] != i.to_bytes(8, "little") for i in range(0, len(m), 4096))`

func adoptWithHugePages(t *testing.T, python string, policy spec.HugePages) *service {
	t.Helper()
	return startEvaluatorWith(t, python, func(target *engine.Target) { target.HugePages = policy })
}

func memoryOf(t *testing.T, img interface{ Memory() (engine.Memory, error) }) engine.Memory {
	t.Helper()
	m, err := img.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Memory in huge pages holds what it held, is shared with the adopted process and with instances, and is theirs page by
// page once they write to it.
func TestHugePagesAreSharedUntilWritten(t *testing.T) {
	needsCollapse(t)
	s := adoptWithHugePages(t, dense, spec.HugePagesAuto)
	if m := memoryOf(t, s.base); m.Huge < 44<<20 || m.Unique > 8<<20 {
		t.Fatalf("the base has %d MiB in huge pages and %d MiB of its own", m.Huge>>20, m.Unique>>20)
	}
	a, b := branchEvaluator(t, s, s.base), branchEvaluator(t, s, s.base)
	for _, e := range []*evaluated{a, b} {
		e.must("0", intact)
	}
	if m, err := a.in.Memory(); err != nil || m.Huge < 44<<20 {
		t.Errorf("the instance has %d MiB in huge pages, %v", m.Huge>>20, err)
	}
	a.must("None", `m.__setitem__(slice(4096, 4104), b"changed!")`)
	a.park()
	img, _, err := s.Checkpoint(t.Context(), a.in, a.conns)
	if err != nil {
		t.Fatal(err)
	}
	a.activate()
	a.must("None", `m.__setitem__(slice(8192, 8200), b"changed!")`)
	a.must("2", intact)
	b.must("0", intact)
	branchEvaluator(t, s, img).must("1", intact)
	if mem, err := a.in.Memory(); err != nil || mem.Unique > 8<<20 {
		t.Errorf("an instance that has written to two pages has %d MiB of its own, %v", mem.Unique>>20, err)
	}
}

// sparse is memory of which a page in eight is in use.
const sparse = `
import mmap
m = mmap.mmap(-1, 48 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, len(m), 8 * 4096):
    m[i:i+8] = i.to_bytes(8, "little")
`

func TestHugePagesByPolicy(t *testing.T) {
	needsCollapse(t)
	for _, v := range []struct {
		python string
		policy spec.HugePages
		least  int64
		most   int64
	}{
		{dense, spec.HugePagesOff, 0, 0},
		{sparse, spec.HugePagesAuto, 0, 0},
		{sparse, spec.HugePagesOn, 44 << 20, 1 << 30},
		{"pass", spec.HugePagesAuto, 0, 0}, // too small to gain anything
	} {
		t.Run(fmt.Sprintf("%s %d", v.policy, v.least), func(t *testing.T) {
			s := adoptWithHugePages(t, v.python, v.policy)
			if m := memoryOf(t, s.base); m.Huge < v.least || m.Huge > v.most {
				t.Errorf("%d MiB in huge pages", m.Huge>>20)
			}
		})
	}
}

// Memory that an instance has written to, and does not any more, is put back into huge pages; what it goes on writing to, or has
// hardly written to, is not.
func TestCompact(t *testing.T) {
	needsCollapse(t)
	s := adoptWithHugePages(t, dense, spec.HugePagesAuto)
	e := branchEvaluator(t, s, s.base)
	write := func(mib, size, step int) {
		e.must("None", `[m.__setitem__(slice(i + 8, i + 9), b"x") for i in range(%d << 20, %d << 20, %d)] and None`, mib, mib+size, step)
	}
	var last engine.Image
	checkpoint := func() {
		e.park()
		img, _, err := s.Checkpoint(t.Context(), e.in, e.conns)
		if err != nil {
			t.Fatal(err)
		}
		last = img
		e.activate()
	}
	compact := func(least, most int) {
		t.Helper()
		if made, err := e.in.Compact(t.Context()); err != nil || made < least || made > most {
			t.Errorf("%d huge pages were made, want %d to %d; %v", made, least, most, err)
		}
	}
	huge := func() int64 { return memoryOf(t, e.in).Huge }
	all := huge()
	write(0, 16, 4096)    // 7 or 8 chunks
	write(24, 8, 64*4096) // a few pages of each
	checkpoint()
	if split := huge(); split > all-9*hugeSize {
		t.Fatalf("writing leaves %d of %d MiB in huge pages", split>>20, all>>20)
	}
	compact(0, 0)
	write(0, 4, 4096) // one or two chunks, still in use
	checkpoint()
	compact(5, 7)
	checkpoint()
	compact(1, 2) // these, too, have come to rest
	checkpoint()
	compact(0, 0)
	e.must("0", intact)
	e.must("4096", `m[8:16 << 20:4096].count(b"x")`)
	branchEvaluator(t, s, last).must("4096", `m[8:16 << 20:4096].count(b"x")`)
	branchEvaluator(t, s, s.base).must("0", `m[8::4096].count(b"x")`)
}
