package client

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// Session is one attached process. Its methods may be called from any goroutine; the module serialises them. Every
// one of them may fail with ErrOver, and those that take a record with ErrNoRecord.
type Session struct {
	w      Wire
	direct bool // w is the kernel itself
	fd     int
	events *os.File // owns fd
}

// Close closes the descriptor. A session that is not persistent detaches then: the process goes on in the instance that
// is, or was last, active.
func (s *Session) Close() error { return s.events.Close() }

func (s *Session) ioctl(req Request, arg unsafe.Pointer, object string) error {
	_, errno := s.w.Ioctl(s.fd, req, arg)
	return failure(req, object, errno)
}

// CopyFlags change how a record is copied.
type CopyFlags uint32

// CopyWipe leaves MADV_WIPEONFORK areas zeroed in the copy. CopySharedOffsets lets the copy share the offsets of
// regular files with its source.
const (
	CopyWipe CopyFlags = 1 << iota
	CopySharedOffsets
)

// Copied is a new record and what it took.
type Copied struct {
	ID    uint32
	Stop  time.Duration // until all threads stood still; 0 for a dormant source
	Dup   time.Duration // duplicating the memory
	Total time.Duration
}

// Checkpoint makes an image of record src. cookie is the caller's and comes back in List. The errors to test for are
// ErrRefused, ErrBusy, ErrFull and ErrState (src has crashed); nothing has changed then.
func (s *Session) Checkpoint(src uint32, flags CopyFlags, cookie uint64) (Copied, error) {
	return s.copy(uapi.ReqCheckpoint, src, flags, cookie)
}

// Branch makes a dormant instance of record src. Otherwise it is like Checkpoint.
func (s *Session) Branch(src uint32, flags CopyFlags, cookie uint64) (Copied, error) {
	return s.copy(uapi.ReqBranch, src, flags, cookie)
}

func (s *Session) copy(req Request, src uint32, flags CopyFlags, cookie uint64) (Copied, error) {
	refusals := make([]uapi.Refusal, refusalRoom)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&refusals[0])
	a := uapi.Copy{
		Flags: uint32(flags), Src: src, ID: None, Cookie: cookie,
		Refusals: uint64(uintptr(unsafe.Pointer(&refusals[0]))), RefusalCap: refusalRoom,
	}
	a.Size = uint32(unsafe.Sizeof(a))
	if _, errno := s.w.Ioctl(s.fd, req, unsafe.Pointer(&a)); errno != 0 {
		return Copied{ID: None}, refused(req, record(src), errno, refusals, a.RefusalCount)
	}
	return Copied{a.ID, time.Duration(a.NSStop), time.Duration(a.NSDup), time.Duration(a.NSTotal)}, nil
}

// Restore makes the state of instance into that of image; its id and cookie stay. The errors are those of Branch.
func (s *Session) Restore(image, instance uint32, flags CopyFlags) (time.Duration, error) {
	refusals := make([]uapi.Refusal, refusalRoom)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&refusals[0])
	a := uapi.Restore{
		Flags: uint32(flags), Image: image, Instance: instance,
		Refusals: uint64(uintptr(unsafe.Pointer(&refusals[0]))), RefusalCap: refusalRoom,
	}
	a.Size = uint32(unsafe.Sizeof(a))
	if _, errno := s.w.Ioctl(s.fd, uapi.ReqRestore, unsafe.Pointer(&a)); errno != 0 {
		return 0, refused(uapi.ReqRestore, record(instance), errno, refusals, a.RefusalCount)
	}
	return time.Duration(a.NSTotal), nil
}

// ActivateFlags say how to activate; see CORSA_IOC_ACTIVATE.
type ActivateFlags uint32

// Lazy waits only for threads that could take what instances share, and leaves asleep those that merely look (poll,
// epoll, futex); with Boundary, what comes for the instance that was left stays untaken. Hold lets nothing run, so that /proc shows the record;
// Boundary gives up with ErrBusy if the running instance does not come to a transaction boundary in time.
const (
	Lazy ActivateFlags = 1 << iota
	Hold
	Boundary
)

// Activate makes instance id active, or parks the process if id is None. timeout is that of Boundary (0: one attempt),
// or of the whole request (0: five seconds). It does not allocate when it succeeds. The errors to test for are
// ErrBusy, ErrState and ErrRefused.
func (s *Session) Activate(id uint32, flags ActivateFlags, timeout time.Duration) error {
	a := uapi.Activate{Flags: uint32(flags), ID: id, TimeoutNS: uint64(timeout)}
	a.Size = uint32(unsafe.Sizeof(a))
	if s.direct {
		for {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), uintptr(uapi.ReqActivate), uintptr(unsafe.Pointer(&a)))
			switch errno {
			case 0:
				return nil
			case unix.EINTR:
			default:
				return activateFailure(id, errno)
			}
		}
	}
	escaped := a // to the heap, and only here
	_, errno := s.w.Ioctl(s.fd, uapi.ReqActivate, unsafe.Pointer(&escaped))
	if errno != 0 {
		return activateFailure(id, errno)
	}
	return nil
}

func activateFailure(id uint32, errno unix.Errno) error {
	return refused(uapi.ReqActivate, record(id), errno, nil, 0)
}

// Discard frees a record. ErrBusy: it is active.
func (s *Session) Discard(id uint32) error {
	a := uapi.Discard{ID: id}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.ioctl(uapi.ReqDiscard, unsafe.Pointer(&a), record(id))
}

// RecordFlags say what a record is.
type RecordFlags uint32

// The flags, as in the header.
const (
	Image RecordFlags = 1 << iota
	Active
	Crashed
	Broken // it has lost a thread and cannot run
	Standby
)

// Record is one record of a session.
type Record struct {
	ID, Parent uint32 // None: it has none
	Flags      RecordFlags
	Threads    int
	Cookie     uint64
	Born       time.Duration // since boot
	Signal     unix.Signal   // of a crash; 0: exit_group
	Code       int           // of a crash: si_code or the exit code
}

// Listing is all records in order of id. Active and Last are None if there is none.
type Listing struct {
	Records      []Record
	Active, Last uint32
	Held         bool
}

// List lists the records.
func (s *Session) List() (Listing, error) {
	for room := 64; ; {
		buf := make([]uapi.Record, room)
		a := uapi.List{Cap: uint32(room)}
		var pin runtime.Pinner
		pin.Pin(&buf[0])
		a.Size, a.Records = uint32(unsafe.Sizeof(a)), uint64(uintptr(unsafe.Pointer(&buf[0])))
		err := s.ioctl(uapi.ReqList, unsafe.Pointer(&a), "")
		pin.Unpin()
		if err != nil {
			return Listing{}, err
		}
		if int(a.Count) > room {
			room = int(a.Count) + 16
			continue
		}
		l := Listing{Active: a.Active, Last: a.Last, Held: a.Held != 0}
		for _, r := range buf[:a.Count] {
			l.Records = append(l.Records, Record{
				ID: r.ID, Parent: r.Parent, Flags: RecordFlags(r.Flags), Threads: int(r.Threads), Cookie: r.Cookie,
				Born: time.Duration(r.BornNS), Signal: unix.Signal(r.Signo), Code: int(r.Code),
			})
		}
		return l, nil
	}
}

// Find returns record id of the listing, or nil.
func (l *Listing) Find(id uint32) *Record {
	for i := range l.Records {
		if l.Records[i].ID == id {
			return &l.Records[i]
		}
	}
	return nil
}

// CrashPolicy says what becomes of an instance that would die.
type CrashPolicy uint32

// The policies, as in the header. Park is in force after Attach.
const (
	CrashPass CrashPolicy = iota
	CrashPark
	CrashStandby
)

// SetCrashPolicy sets it. standby is None but for CrashStandby; limit crashes within window make CrashStandby act as
// CrashPark, 0: no limit.
func (s *Session) SetCrashPolicy(p CrashPolicy, standby uint32, limit int, window time.Duration) error {
	a := uapi.Crash{Policy: uint32(p), Standby: standby, Limit: uint32(limit), WindowMS: uint32(window.Milliseconds())}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.ioctl(uapi.ReqCrash, unsafe.Pointer(&a), record(standby))
}

// Memory is in bytes.
type Memory struct {
	Resident   int64
	Unique     int64 // mapped by this record alone
	Swapped    int64
	PageTables int64
}

// Memory walks the page tables of record id.
func (s *Session) Memory(id uint32) (Memory, error) {
	a := uapi.Memory{ID: id}
	a.Size = uint32(unsafe.Sizeof(a))
	if err := s.ioctl(uapi.ReqMemory, unsafe.Pointer(&a), record(id)); err != nil {
		return Memory{}, err
	}
	return Memory{int64(a.Resident), int64(a.Unique), int64(a.Swapped), int64(a.PageTables)}, nil
}

// Detach ends the session, whoever else has it open. The process goes on in the instance that is, or was last, active.
func (s *Session) Detach() error {
	a := uapi.Detach{}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.ioctl(uapi.ReqDetach, unsafe.Pointer(&a), "")
}

// Persist lets the session outlive its descriptors from now on, as if it had been attached so.
func (s *Session) Persist() error {
	a := uapi.Persist{}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.ioctl(uapi.ReqPersist, unsafe.Pointer(&a), "")
}

// GetFD returns a new descriptor of the caller, close-on-exec, for what fd is in record id. unix.EBADF: nothing.
func (s *Session) GetFD(id uint32, fd int) (int, error) {
	a := uapi.GetFD{ID: id, FD: int32(fd)}
	a.Size = uint32(unsafe.Sizeof(a))
	n, errno := s.w.Ioctl(s.fd, uapi.ReqGetFD, unsafe.Pointer(&a))
	if errno != 0 {
		return -1, failure(uapi.ReqGetFD, fmt.Sprintf("record %d: fd %d", id, fd), errno)
	}
	return n, nil
}
