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
	if p := check.Host().Find("madv-collapse"); p == nil || p.Result != check.Yes {
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

func baseMemory(t *testing.T, img engine.Image) engine.Memory {
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
	if m := baseMemory(t, s.base); m.Huge < 44<<20 || m.Unique > 8<<20 {
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
			if m := baseMemory(t, s.base); m.Huge < v.least || m.Huge > v.most {
				t.Errorf("%d MiB in huge pages", m.Huge>>20)
			}
		})
	}
}
