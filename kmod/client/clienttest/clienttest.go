// Package clienttest is a fake kernel for tests of programs that use package client: a function from requests to
// replies in place of corsa.ko.
package clienttest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// The structures of the requests, as a Reply gets them. It changes in them what the kernel would.
type (
	Version  = uapi.Version
	Attach   = uapi.Attach
	Copy     = uapi.Copy
	Restore  = uapi.Restore
	Activate = uapi.Activate
	Discard  = uapi.Discard
	List     = uapi.List
	FDs      = uapi.FDs
	FDOp     = uapi.FDOp
	GetFD    = uapi.GetFD
	Crash    = uapi.Crash
	Event    = uapi.Event
	Stats    = uapi.Stats
	Samples  = uapi.Samples
	Memory   = uapi.Memory
	Detach   = uapi.Detach
	Persist  = uapi.Persist
	Record   = uapi.Record
	Refusal  = uapi.Refusal

	BinderEnable    = uapi.BinderEnable
	BinderRoute     = uapi.BinderRoute
	BinderRouteInfo = uapi.BinderRouteInfo
	BinderRoutes    = uapi.BinderRoutes
	BinderStats     = uapi.BinderStats
)

// ABIMajor is the version that a Reply to Version should give.
const ABIMajor = uapi.ABIMajor

// Reply answers one request: arg points to its structure.
type Reply func(arg any) (ret int, errno unix.Errno)

// Kernel is a client.Wire. Requests without a Reply fail with ENOTTY, but for Version, and for Attach, which gives a
// session with events from Emit.
type Kernel struct {
	// Replies by the name of the request: "Version", "Checkpoint", "Branch", "FDs" ...
	Replies map[string]Reply
	// OpenErrno is what opening the device gives.
	OpenErrno unix.Errno

	mu     sync.Mutex
	calls  []string
	events *os.File // the writing end
}

var _ client.Wire = (*Kernel)(nil)

// Calls lists the requests so far, by name.
func (k *Kernel) Calls() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.calls...)
}

// Open implements client.Wire.
func (k *Kernel) Open() (int, unix.Errno) {
	if k.OpenErrno != 0 {
		return -1, k.OpenErrno
	}
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	var errno unix.Errno
	errors.As(err, &errno) // all errors of it are
	return fd, errno
}

// Emit puts events where the session reads them; without any it ends the session.
func (k *Kernel) Emit(events ...Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.events == nil {
		return fmt.Errorf("no session")
	}
	if len(events) == 0 {
		return k.events.Close()
	}
	_, err := k.events.Write(unsafe.Slice((*byte)(unsafe.Pointer(&events[0])), len(events)*int(unsafe.Sizeof(events[0]))))
	return err
}

// Ioctl implements client.Wire.
func (k *Kernel) Ioctl(_ int, req client.Request, p unsafe.Pointer) (int, unix.Errno) {
	name, arg := decode(req, p)
	k.mu.Lock()
	k.calls = append(k.calls, name)
	reply := k.Replies[name]
	k.mu.Unlock()
	switch {
	case reply != nil:
		return reply(arg)
	case name == "Version":
		arg.(*Version).Major = ABIMajor
		return 0, 0
	case name == "Attach":
		return k.Session()
	}
	return 0, unix.ENOTTY
}

// Session makes a session whose events come from Emit; it is what Attach replies.
func (k *Kernel) Session() (int, unix.Errno) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, unix.EMFILE
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = os.NewFile(uintptr(ends[1]), "events")
	return ends[0], 0
}

// Slice is n structures at a pointer that a request carries.
func Slice[T any](at uint64, n uint32) []T {
	if n == 0 {
		return nil
	}
	return unsafe.Slice(*(**T)(unsafe.Pointer(&at)), n)
}

func decode(req client.Request, p unsafe.Pointer) (string, any) {
	switch req {
	case uapi.ReqVersion:
		return "Version", (*Version)(p)
	case uapi.ReqAttach:
		return "Attach", (*Attach)(p)
	case uapi.ReqCheckpoint:
		return "Checkpoint", (*Copy)(p)
	case uapi.ReqBranch:
		return "Branch", (*Copy)(p)
	case uapi.ReqRestore:
		return "Restore", (*Restore)(p)
	case uapi.ReqActivate:
		return "Activate", (*Activate)(p)
	case uapi.ReqDiscard:
		return "Discard", (*Discard)(p)
	case uapi.ReqList:
		return "List", (*List)(p)
	case uapi.ReqFDs:
		return "FDs", (*FDs)(p)
	case uapi.ReqGetFD:
		return "GetFD", (*GetFD)(p)
	case uapi.ReqCrash:
		return "Crash", (*Crash)(p)
	case uapi.ReqStats:
		return "Stats", (*Stats)(p)
	case uapi.ReqSamples:
		return "Samples", (*Samples)(p)
	case uapi.ReqMemory:
		return "Memory", (*Memory)(p)
	case uapi.ReqDetach:
		return "Detach", (*Detach)(p)
	case uapi.ReqPersist:
		return "Persist", (*Persist)(p)
	case uapi.ReqBinderEnable:
		return "BinderEnable", (*BinderEnable)(p)
	case uapi.ReqBinderRoute:
		return "BinderRoute", (*BinderRoute)(p)
	case uapi.ReqBinderRoutes:
		return "BinderRoutes", (*BinderRoutes)(p)
	case uapi.ReqBinderStats:
		return "BinderStats", (*BinderStats)(p)
	}
	return req.String(), nil
}
