// Package uapi is kmod/uapi/corsa.h in Go: structures, requests and numbers. A test compares it with what a C compiler
// makes of the header.
package uapi

import "unsafe"

// Version of the contract. Another major number means: do not talk to that module.
const (
	ABIMajor = 1
	ABIMinor = 1
)

// None stands for no record.
const None uint32 = 0xffffffff

// Version is struct corsa_version.
type Version struct {
	Size, Reserved, Major, Minor uint32
	Features                     uint64
}

// Refusal is struct corsa_refusal.
type Refusal struct {
	Kind          uint32
	TID, FD, Code int32
	Addr          uint64
}

// Attach is struct corsa_attach.
type Attach struct {
	Size, Flags            uint32
	PIDFD                  int32
	Joined, Threads        uint32
	RefusalCap             uint32
	Refusals               uint64
	RefusalCount, Reserved uint32
}

// Copy is struct corsa_copy.
type Copy struct {
	Size, Flags, Src, ID     uint32
	Cookie                   uint64
	NSStop, NSDup, NSTotal   uint64
	Refusals                 uint64
	RefusalCap, RefusalCount uint32
}

// Restore is struct corsa_restore.
type Restore struct {
	Size, Flags, Image, Instance uint32
	NSTotal, Refusals            uint64
	RefusalCap, RefusalCount     uint32
}

// Activate is struct corsa_activate.
type Activate struct {
	Size, Flags, ID, Reserved uint32
	TimeoutNS, NS             uint64
}

// Discard is struct corsa_discard.
type Discard struct {
	Size, ID uint32
	Reserved uint64
}

// Record is struct corsa_record_info.
type Record struct {
	ID, Parent, Flags, Threads uint32
	Cookie, BornNS             uint64
	Signo, Code                int32
}

// List is struct corsa_list.
type List struct {
	Size, Cap                 uint32
	Records                   uint64
	Count, Active, Last, Held uint32
}

// FDOp is struct corsa_fd_op.
type FDOp struct {
	Op, Flags        uint32
	FD, Src          int32
	Events, Reserved uint32
	Data             uint64
}

// FDs is struct corsa_fds.
type FDs struct {
	Size, ID    uint32
	Ops         uint64
	Count, Done uint32
}

// GetFD is struct corsa_getfd.
type GetFD struct {
	Size, ID uint32
	FD       int32
	Reserved uint32
}

// Crash is struct corsa_crash.
type Crash struct {
	Size, Policy, Standby, Limit, WindowMS, Reserved uint32
}

// Event is struct corsa_event.
type Event struct {
	Type, ID, Next   uint32
	TID, Signo, Code int32
	Addr, NS         uint64
}

// The last values of the enumerations that this package knows.
const (
	RefusalMax = 19
	EventMax   = 9
	FDOpMax    = 6
	CrashMax   = 2
)

// Histograms: how many there are, and how many buckets each has.
const (
	HistCount   = 5
	HistBuckets = 40
)

// Stats is struct corsa_stats.
type Stats struct {
	Size, Reserved, Records, Threads         uint32
	Copies, Activations, Swaps, Restores     uint64
	Discards, Crashes, EINTRHidden, Timeouts uint64
	ThreadsHeld                              uint64
	SumNS                                    [HistCount]uint64
	Hist                                     [HistCount][HistBuckets]uint64
}

// Samples is struct corsa_samples.
type Samples struct {
	Size, Flags, Which, Cap uint32
	NS                      uint64
	Count, Reserved         uint32
}

// Memory is struct corsa_memory.
type Memory struct {
	Size, ID                              uint32
	Resident, Unique, Swapped, PageTables uint64
}

// Detach is struct corsa_detach.
type Detach struct {
	Size, Reserved uint32
}

// Persist is struct corsa_persist.
type Persist struct {
	Size, Reserved uint32
}

// Request is the number of an ioctl.
type Request uint32

// iowr is _IOWR(CORSA_IOC_MAGIC, nr, size).
func iowr(nr, size uintptr) Request {
	const magic, readWrite = 0xC5, 3
	return Request(readWrite<<30 | size<<16 | magic<<8 | nr)
}

// The requests.
var (
	ReqVersion    = iowr(0x00, unsafe.Sizeof(Version{}))
	ReqAttach     = iowr(0x01, unsafe.Sizeof(Attach{}))
	ReqCheckpoint = iowr(0x10, unsafe.Sizeof(Copy{}))
	ReqBranch     = iowr(0x11, unsafe.Sizeof(Copy{}))
	ReqRestore    = iowr(0x12, unsafe.Sizeof(Restore{}))
	ReqActivate   = iowr(0x13, unsafe.Sizeof(Activate{}))
	ReqDiscard    = iowr(0x14, unsafe.Sizeof(Discard{}))
	ReqList       = iowr(0x15, unsafe.Sizeof(List{}))
	ReqFDs        = iowr(0x16, unsafe.Sizeof(FDs{}))
	ReqGetFD      = iowr(0x17, unsafe.Sizeof(GetFD{}))
	ReqCrash      = iowr(0x18, unsafe.Sizeof(Crash{}))
	ReqStats      = iowr(0x19, unsafe.Sizeof(Stats{}))
	ReqSamples    = iowr(0x1a, unsafe.Sizeof(Samples{}))
	ReqMemory     = iowr(0x1b, unsafe.Sizeof(Memory{}))
	ReqDetach     = iowr(0x1c, unsafe.Sizeof(Detach{}))
	ReqPersist    = iowr(0x1d, unsafe.Sizeof(Persist{}))
)

// names of the requests, for errors and the wire log.
var names = map[Request]string{
	ReqVersion: "version", ReqAttach: "attach", ReqCheckpoint: "checkpoint", ReqBranch: "branch", ReqRestore: "restore",
	ReqActivate: "activate", ReqDiscard: "discard", ReqList: "list", ReqFDs: "edit descriptors of", ReqGetFD: "get a descriptor of",
	ReqCrash: "set the crash policy", ReqStats: "statistics", ReqSamples: "samples", ReqMemory: "memory of", ReqDetach: "detach",
	ReqPersist:      "make persistent",
	ReqBinderEnable: "enable the Binder gate", ReqBinderRoute: "route", ReqBinderRoutes: "list routes", ReqBinderStats: "statistics of the Binder gate",
}

// String is what the request does, in words.
func (r Request) String() string {
	if n, ok := names[r]; ok {
		return n
	}
	return "unknown request"
}
