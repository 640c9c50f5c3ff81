package client

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// What a request can fail with. All errors of this package are *Error, and errors.Is finds both the sentinel and the
// errno in them; an errno without a sentinel here stands for itself (EPERM is os.ErrPermission).
var (
	// ErrNoModule says that there is no /dev/corsa.
	ErrNoModule = errors.New("the kernel module is not loaded; way out: insmod corsa.ko")
	// ErrVersion says that the module speaks another major version of the contract.
	ErrVersion = errors.New("the kernel module and this program are of different versions; way out: build both from the same source")
	// ErrNoRecord says that there is no record of that id (any more).
	ErrNoRecord = errors.New("no such record")
	// ErrOver says that the process has ended or executes another program: the session is over.
	ErrOver = errors.New("the session is over: its process has ended")
	// ErrBusy says that threads did not reach a transaction boundary in time, that a thread sleeps uninterruptibly, or
	// that the record is in use.
	ErrBusy = errors.New("busy")
	// ErrState says that the record is of the wrong kind for the request, or has crashed.
	ErrState = errors.New("the record is of the wrong kind or has crashed")
	// ErrSelf says that the caller is a thread of the process itself.
	ErrSelf = errors.New("a process cannot do that to itself")
	// ErrFull says that the session has as many records as the module allows.
	ErrFull = errors.New("too many records; way out: discard some")
	// ErrRefused is what every *Refused is.
	ErrRefused = errors.New("cannot be virtualised")
)

// sentinels translates the errnos of requests on a session.
var sentinels = map[unix.Errno]error{
	unix.ENOENT:  ErrNoRecord,
	unix.ESRCH:   ErrOver,
	unix.EBUSY:   ErrBusy,
	unix.EINVAL:  ErrState,
	unix.EDEADLK: ErrSelf,
	unix.ENOSPC:  ErrFull,
	unix.ENOTTY:  ErrVersion,
	unix.E2BIG:   ErrVersion,
}

// Error is a request that failed.
type Error struct {
	Op     string // what was asked for, in words
	Object string // of what: "record 3", "process 17"; "" where there is just one thing
	Errno  unix.Errno
	err    error // sentinel or *Refused; nil: the errno says it
}

func (e *Error) Error() string {
	what := e.Op
	if e.Object != "" {
		what += " " + e.Object
	}
	if e.err != nil {
		return fmt.Sprintf("corsa.ko: %s: %v (%s)", what, e.err, unix.ErrnoName(e.Errno))
	}
	return fmt.Sprintf("corsa.ko: %s: %v", what, e.Errno)
}

// Unwrap is for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.err != nil {
		return []error{e.err, e.Errno}
	}
	return []error{e.Errno}
}

func record(id uint32) string {
	if id == None {
		return ""
	}
	return fmt.Sprintf("record %d", id)
}

// failure makes the error of a request on object; nil for errno 0.
func failure(req Request, object string, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return &Error{Op: req.String(), Object: object, Errno: errno, err: sentinels[errno]}
}

// RefusalKind is enum corsa_refusal_kind.
type RefusalKind uint32

// The kinds, as in the header.
const (
	RefuseIOUring RefusalKind = 1 + iota
	RefuseAIO
	RefuseUserfaultfd
	RefuseMMUNotifier
	RefusePIFutex
	RefuseSharedMM
	RefusePtraced
	RefuseCompat
	RefuseUprobe
	RefuseFileLock
	RefuseHugetlb
	RefuseDeviceMap
	RefuseSemUndo
	RefuseTimer
	RefuseFileOpen
	RefuseCreds
	RefuseIOPort
	RefuseShadowStack
	RefuseUnshared
	refuseLast
)

// kinds says for each kind what the object is, why it cannot be virtualised and what can be done about it.
var kinds = map[RefusalKind]struct{ what, why, wayOut string }{
	RefuseIOUring:     {"io_uring", "its requests are tied to the memory that made it", "configure the service to use epoll instead of io_uring"},
	RefuseAIO:         {"aio context", "the kernel completes asynchronous I/O (libaio) into memory of one instance", "run the service with another I/O method (often `aio=threads` or `off`)"},
	RefuseUserfaultfd: {"userfaultfd mapping", "its page faults are handled by a userfaultfd, which knows one memory", "run the service without userfaultfd"},
	RefuseMMUNotifier: {"mmu notifier", "KVM, RDMA or another driver watches the memory", "run the service without the device"},
	RefusePIFutex:     {"priority-inheritance futex", "a thread owns one, and the kernel keeps the owner", "use mutexes without PTHREAD_PRIO_INHERIT"},
	RefuseSharedMM:    {"shared memory map", "another process runs in the same memory (vfork, CLONE_VM)", "wait until the child has executed its program"},
	RefusePtraced:     {"tracer", "another program traces it", "detach the debugger or tracer"},
	RefuseCompat:      {"32-bit thread", "the module saves 64-bit registers only", "use a 64-bit build of the service"},
	RefuseUprobe:      {"uprobe", "breakpoints of uprobes are set in its memory", "remove the uprobes (bpftrace, perf)"},
	RefuseFileLock:    {"file lock", "an instance could not hold it too", "run the service without the lock, or keep the locked file out of it"},
	RefuseHugetlb:     {"hugetlb mapping", "huge pages of hugetlbfs are reserved for one memory and may not be there for a copy", "run the service with transparent huge pages instead of hugetlbfs"},
	RefuseDeviceMap:   {"device mapping", "it is memory of a device and has no copy", "run the service without the device"},
	RefuseSemUndo:     {"semaphore undo list", "System V semaphores are adjusted once, when the process ends", "run the service without SEM_UNDO"},
	RefuseTimer:       {"timer", "the kernel keeps it for the process as a whole", "use a timerfd or a timeout of the event loop instead"},
	RefuseFileOpen:    {"file", "it cannot be opened anew for an offset of its own", "let the service close it or open a file that is still there"},
	RefuseCreds:       {"credentials", "they have changed since, and a restore must not give them back", "let the service drop its privileges before it is adopted"},
	RefuseIOPort:      {"I/O ports", "permissions for ports are not copied", "run the service without ioperm and iopl"},
	RefuseShadowStack: {"shadow stack", "it is not saved with the other registers", "start the service with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"},
	RefuseUnshared:    {"table of its own", "the thread has descriptors or a working directory apart from the others", "let the service not unshare them per thread (unshare, clone without CLONE_FILES or CLONE_FS)"},
}

// Refusal names one object that stands in the way.
type Refusal struct {
	Kind RefusalKind
	TID  int // thread, 0: none
	FD   int // descriptor, -1: none
	Code int // see the header
	Addr uint64
}

// Object names it, as in "thread 17 (io_uring)".
func (r Refusal) Object() string {
	k, ok := kinds[r.Kind]
	if !ok {
		k.what = fmt.Sprintf("kind %d", r.Kind)
	}
	switch {
	case r.FD >= 0:
		return fmt.Sprintf("fd %d (%s)", r.FD, k.what)
	case r.TID != 0:
		return fmt.Sprintf("thread %d (%s)", r.TID, k.what)
	case r.Addr != 0:
		return fmt.Sprintf("mapping %x (%s)", r.Addr, k.what)
	}
	return k.what
}

// Reason says why the object cannot be virtualised, WayOut what can be done about it.
func (r Refusal) Reason() string {
	k, ok := kinds[r.Kind]
	if !ok {
		return "the module is newer than this program and has a reason that it does not know"
	}
	if r.Kind == RefuseFileOpen && r.Code != 0 {
		return fmt.Sprintf("%s: %v", k.why, unix.Errno(r.Code))
	}
	return k.why
}

// WayOut says what can be done about it.
func (r Refusal) WayOut() string {
	if k, ok := kinds[r.Kind]; ok {
		return k.wayOut
	}
	return "use a corsa that is as new as the module"
}

func (r Refusal) String() string { return r.Object() + ": " + r.Reason() }

// Refused says what the module will not virtualise. All objects are in it, unless More is positive.
type Refused struct {
	Refusals []Refusal
	More     int
}

func (r *Refused) Error() string {
	s := make([]string, len(r.Refusals))
	for i := range r.Refusals {
		s[i] = r.Refusals[i].String()
	}
	text := ErrRefused.Error() + ": " + strings.Join(s, "; ")
	if r.More > 0 {
		text += fmt.Sprintf("; and %d more", r.More)
	}
	return text
}

// Is makes errors.Is(err, ErrRefused) true.
func (r *Refused) Is(target error) bool { return target == ErrRefused }

// refused is failure for requests that can be refused.
func refused(req Request, object string, errno unix.Errno, stored []uapi.Refusal, count uint32) error {
	if errno != unix.EOPNOTSUPP {
		return failure(req, object, errno)
	}
	n := min(int(count), len(stored))
	r := &Refused{More: int(count) - n}
	for _, x := range stored[:n] {
		r.Refusals = append(r.Refusals, Refusal{
			Kind: RefusalKind(x.Kind), TID: int(x.TID), FD: int(x.FD), Code: int(x.Code), Addr: x.Addr,
		})
	}
	return &Error{Op: req.String(), Object: object, Errno: errno, err: r}
}
