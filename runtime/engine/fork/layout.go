package fork

import "encoding/binary"

// The arena is the one mapping that the engine adds to a service. Every fork inherits it, so it is paid for once.
//
//	0x00000  stub, read and execute
//	0x01000  control page A, shared with the engine only
//	0x02000  control page B: the next fork's control page; parent and child swap the roles of A and B
//	0x03000  two agent contexts, one per control page
//	0x04000  batch of the agent
//	0x18000  data of the batch: structs, names, epoll events
//	0x58000  one slot per thread: context, capture batch, signal frame
const (
	pageSize = 4096

	offCtl    = 0x1000
	offAgents = 0x3000
	offBatch  = 0x4000
	offData   = 0x18000
	offSlots  = 0x58000

	batchSize = offData - offBatch
	dataSize  = offSlots - offData

	maxThreads = 1000
	slotSize   = 24 << 10 // a context, a small batch and a frame with up to 16 KiB of extended state (AMX: 11 008)
	arenaSize  = offSlots + maxThreads*slotSize
)

// Offsets in a slot.
const (
	slotNotes   = 0x48 // what the thread noted about signals and timers: behind the context, and read with it
	slotBatch   = 0x100
	slotCapture = 0x540  // what the thread says about itself, see capture
	slotFrame   = 0x600  // ucontext
	slotXstate  = 0x800  // 64-byte aligned
	slotOwn     = 0x4800 // a longer batch for a thread that begins
	slotOwnData = 0x5400

	slotNotesEnd = slotNotes + 8 + 3*32
)

// Offsets in a context; stub_amd64.s has the same.
const (
	ctxBatch  = 0
	ctxN      = 8
	ctxKind   = 16
	ctxCtl    = 24
	ctxSeq    = 32
	ctxParked = 36
	ctxFailed = 40
	ctxFrame  = 48
	ctxLimit  = 56
	ctxSize   = 72

	kindAgent  = 0
	kindThread = 1
)

// Words in a control page, a cache line apart.
const (
	ctlCmd  = 0
	ctlDone = 64
	ctlRun  = 128
	ctlTerm = 192 // not 0: an agent on probation, which ends when its limit passes
)

// Values of the run word.
const (
	runParked      = 0
	runGo          = 1
	runProvisional = 2 // parked, but a thread goes on by itself when its limit passes
)

const entrySize = 96

// arena is the address of the arena in a service; it is the same in all forks.
type arena uint64

func (a arena) ctl(side int) uint64   { return uint64(a) + offCtl + uint64(side)*pageSize }
func (a arena) agent(side int) uint64 { return uint64(a) + offAgents + uint64(side)*0x100 }
func (a arena) slot(i int) uint64     { return uint64(a) + offSlots + uint64(i)*slotSize }

// slotAt returns which slot begins at the address.
func (a arena) slotAt(at uint64) (int, bool) {
	i := (at - a.slot(0)) / slotSize
	return int(i), at >= a.slot(0) && i < maxThreads && a.slot(int(i)) == at
}

// has reports whether the address is in the arena.
func (a arena) has(at uint64) bool { return a != 0 && at >= uint64(a) && at < uint64(a)+arenaSize }

// inStub reports whether ip is in the stub: such a thread's state is in its frame, not in its registers.
func (a arena) inStub(ip uint64) bool { return a != 0 && ip >= uint64(a) && ip < uint64(a)+pageSize }

// stubContext is a context of the stub.
type stubContext struct {
	batch  uint64
	n      int
	kind   uint64
	ctl    uint64
	seq    uint32
	frame  uint64
	limitS int64 // seconds after which a provisionally parked thread goes on
}

func (c stubContext) put(b []byte) {
	le := binary.LittleEndian
	clear(b[:ctxSize])
	le.PutUint64(b[ctxBatch:], c.batch)
	le.PutUint64(b[ctxN:], uint64(c.n))
	le.PutUint64(b[ctxKind:], c.kind)
	le.PutUint64(b[ctxCtl:], c.ctl)
	le.PutUint32(b[ctxSeq:], c.seq)
	le.PutUint64(b[ctxFrame:], c.frame)
	le.PutUint64(b[ctxLimit:], uint64(c.limitS))
}
