package fork

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"corsa.dev/corsa/runtime/engine"
)

// Offsets in an XSAVE area and in the software bytes of a signal frame (arch/x86/include/uapi/asm/sigcontext.h).
const (
	xstateSoftware = 464 // ptrace: the mask of enabled features; frame: magic, sizes and mask
	xstateBV       = 512
	xstateLegacy   = 576
	xtileData      = 1 << 18

	fpXstateMagic1 = 0x46505853
	fpXstateMagic2 = 0x46505845
)

// xstateEnd is the size of the standard (not compacted) XSAVE area for the features.
func xstateEnd(features uint64) int {
	end := uint32(xstateLegacy)
	for i := uint32(2); i < 63; i++ {
		if features>>i&1 == 0 {
			continue
		}
		size, off, flags, _ := cpuid(0xd, i)
		if flags&1 == 0 && off+size > end { // not a supervisor state
			end = off + size
		}
	}
	return int(end)
}

// xstateCache holds the last answer: the features of a host do not change.
var xstateCache atomic.Pointer[struct {
	features uint64
	size     int
}]

func xstateSize(features uint64) int {
	if c := xstateCache.Load(); c != nil && c.features == features {
		return c.size
	}
	n := xstateEnd(features)
	xstateCache.Store(&struct {
		features uint64
		size     int
	}{features, n})
	return n
}

// toFrame turns n bytes of NT_X86_XSTATE in b into the extended state of a signal frame and returns its length.
//
// rt_sigreturn restores the extended state only if the frame's size is the one that the kernel uses for this
// task, and silently falls back to the legacy state otherwise. A task that has never used AMX has the smaller
// size although ptrace always gives the largest, so the tile data is left out unless it is in use.
func toFrame(b []byte, n int) int {
	le := binary.LittleEndian
	features := le.Uint64(b[xstateSoftware:])
	if features&xtileData != 0 && le.Uint64(b[xstateBV:])&xtileData == 0 {
		features &^= xtileData
		if s := xstateSize(features); s < n {
			n = s
		}
	}
	le.PutUint32(b[xstateSoftware:], fpXstateMagic1)
	le.PutUint32(b[xstateSoftware+4:], uint32(n)+4)
	le.PutUint64(b[xstateSoftware+8:], features)
	le.PutUint32(b[xstateSoftware+16:], uint32(n))
	le.PutUint32(b[n:], fpXstateMagic2)
	return n + 4
}

// usesTiles reports whether NT_X86_XSTATE, or a frame made of it, has tile data of AMX.
func usesTiles(b []byte) bool { return binary.LittleEndian.Uint64(b[xstateBV:])&xtileData != 0 }

// noTiles refuses threads that hold tiles. A thread that has never used them is given the rest of its frame only, and that
// silently: see toFrame. The thread that was parked itself gets them back.
func noTiles(pid int, threads []thread) error {
	for i := range threads {
		if th := &threads[i]; th.tiles {
			return &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
				Object: fmt.Sprintf("thread %d (AMX tiles)", th.tid), Reason: "a new thread could not be given them",
				WayOut: "let the service release its tiles (TILERELEASE) when it has computed",
			}}}
		}
	}
	return nil
}
