package client

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// FDOp is one change of a record's descriptor table. The functions below make them.
type FDOp struct{ arg uapi.FDOp }

const (
	opInstall = 1 + iota
	opClose
	opEpollNew
	opEpollAdd
	opEpollDel
	opDup
)

var opNames = [...]string{opInstall: "install", opClose: "close", opEpollNew: "epoll_create", opEpollAdd: "epoll add", opEpollDel: "epoll delete", opDup: "dup"}

func op(kind uint32, fd, src int, cloexec bool) FDOp {
	o := FDOp{uapi.FDOp{Op: kind, FD: int32(fd), Src: int32(src)}}
	if cloexec {
		o.arg.Flags = 1
	}
	return o
}

// Install makes the caller's descriptor src into fd of the record.
func Install(fd, src int, cloexec bool) FDOp { return op(opInstall, fd, src, cloexec) }

// CloseFD closes fd of the record.
func CloseFD(fd int) FDOp { return op(opClose, fd, 0, false) }

// EpollNew makes an empty epoll set as fd of the record.
func EpollNew(fd int, cloexec bool) FDOp { return op(opEpollNew, fd, 0, cloexec) }

// EpollAdd adds fd of the record to its epoll set.
func EpollAdd(set, fd int, events uint32, data uint64) FDOp {
	o := op(opEpollAdd, fd, set, false)
	o.arg.Events, o.arg.Data = events, data
	return o
}

// EpollDel takes fd of the record out of its epoll set.
func EpollDel(set, fd int) FDOp { return op(opEpollDel, fd, set, false) }

// Dup makes src of the record into fd of it as well.
func Dup(fd, src int, cloexec bool) FDOp { return op(opDup, fd, src, cloexec) }

func (o FDOp) String() string {
	if int(o.arg.Op) < len(opNames) {
		return fmt.Sprintf("%s fd %d", opNames[o.arg.Op], o.arg.FD)
	}
	return fmt.Sprintf("operation %d on fd %d", o.arg.Op, o.arg.FD)
}

// fdsMax is how many operations one request may carry.
const fdsMax = 4096

// EditFDs changes the descriptor table of record id, which has to be dormant, in order. What preceded a failure stays
// done. ErrBusy: the record is active; errnos are those of dup2, close and epoll_ctl.
func (s *Session) EditFDs(id uint32, ops []FDOp) error {
	for len(ops) > 0 {
		n := min(len(ops), fdsMax)
		if err := s.editSome(id, ops[:n]); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

func (s *Session) editSome(id uint32, ops []FDOp) error {
	args := make([]uapi.FDOp, len(ops))
	for i := range ops {
		args[i] = ops[i].arg
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&args[0])
	a := uapi.FDs{ID: id, Ops: uint64(uintptr(unsafe.Pointer(&args[0]))), Count: uint32(len(args))}
	a.Size = uint32(unsafe.Sizeof(a))
	_, errno := s.w.Ioctl(s.fd, uapi.ReqFDs, unsafe.Pointer(&a))
	if errno == 0 {
		return nil
	}
	object := record(id)
	if int(a.Done) < len(ops) {
		object += ": " + ops[a.Done].String()
	}
	switch errno {
	case unix.ENOENT, unix.EINVAL: // may be epoll_ctl's as well
		return &Error{Op: uapi.ReqFDs.String(), Object: object, Errno: errno, err: fdsSentinel(errno, a.Done)}
	}
	return failure(uapi.ReqFDs, object, errno)
}

// fdsSentinel tells an error about the record from one about an operation: the record is looked at first.
func fdsSentinel(errno unix.Errno, done uint32) error {
	if done == 0 {
		return sentinels[errno]
	}
	return nil
}
