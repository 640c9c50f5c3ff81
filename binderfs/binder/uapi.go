package binder

import "unsafe"

// The numbers and structures of linux/android/binder.h, 64-bit protocol. All fields are in the machine's byte order.

// protocolVersion is the only version of the protocol that 64-bit processes have ever had.
const protocolVersion = 8

const (
	iocWrite = 1
	iocRead  = 2
)

func ioc(dir, kind, nr, size uintptr) uintptr { return dir<<30 | size<<16 | kind<<8 | nr }

var (
	ioctlWriteRead        = ioc(iocRead|iocWrite, 'b', 1, unsafe.Sizeof(writeRead{}))
	ioctlSetMaxThreads    = ioc(iocWrite, 'b', 5, 4)
	ioctlThreadExit       = ioc(iocWrite, 'b', 8, 4)
	ioctlVersion          = ioc(iocRead|iocWrite, 'b', 9, 4)
	ioctlSetContextMgrExt = ioc(iocWrite, 'b', 13, flatObjectSize)
	ioctlFreeze           = ioc(iocWrite, 'b', 14, unsafe.Sizeof(freezeInfo{}))
	ioctlFrozenInfo       = ioc(iocRead|iocWrite, 'b', 15, unsafe.Sizeof(frozenStatus{}))
	ioctlExtendedError    = ioc(iocRead|iocWrite, 'b', 17, unsafe.Sizeof(extendedError{}))
)

type writeRead struct {
	writeSize, writeConsumed, writeBuffer uint64
	readSize, readConsumed, readBuffer    uint64
}

type freezeInfo struct {
	pid, enable, timeoutMS uint32
}

type frozenStatus struct {
	pid, syncReceived, asyncReceived uint32
}

type extendedError struct {
	id, command uint32
	param       int32
}

// command is a BC_ or BR_ number. Like an ioctl number it tells the size of what follows it.
type command uint32

func (c command) size() int { return int(c>>16) & 0x3fff }

// Sizes in bytes of what follows commands, and of objects in parcels.
const (
	transactionSize   = 64
	transactionSGSize = 72
	secctxSize        = 72
	ptrCookieSize     = 16
	handleCookieSize  = 12
	flatObjectSize    = 24
	bufferObjectSize  = 40
	fdArraySize       = 32
)

func bc(nr, size command) command {
	if size == 0 {
		return 'c'<<8 | nr
	}
	return iocWrite<<30 | size<<16 | 'c'<<8 | nr
}

func br(nr, size command) command {
	if size == 0 {
		return 'r'<<8 | nr
	}
	return iocRead<<30 | size<<16 | 'r'<<8 | nr
}

// What a process tells the driver.
var (
	bcTransaction       = bc(0, transactionSize)
	bcReply             = bc(1, transactionSize)
	bcFreeBuffer        = bc(3, 8)
	bcIncRefs           = bc(4, 4)
	bcAcquire           = bc(5, 4)
	bcRelease           = bc(6, 4)
	bcDecRefs           = bc(7, 4)
	bcIncRefsDone       = bc(8, ptrCookieSize)
	bcAcquireDone       = bc(9, ptrCookieSize)
	bcRegisterLooper    = bc(11, 0)
	bcEnterLooper       = bc(12, 0)
	bcExitLooper        = bc(13, 0)
	bcRequestDeath      = bc(14, handleCookieSize)
	bcClearDeath        = bc(15, handleCookieSize)
	bcDeadBinderDone    = bc(16, 8)
	bcTransactionSG     = bc(17, transactionSGSize)
	bcReplySG           = bc(18, transactionSGSize)
	brError             = br(0, 4)
	brOK                = br(1, 0)
	brTransactionSecCtx = br(2, secctxSize)
	brTransaction       = br(2, transactionSize)
	brReply             = br(3, transactionSize)
	brDeadReply         = br(5, 0)
	brComplete          = br(6, 0)
	brIncRefs           = br(7, ptrCookieSize)
	brAcquire           = br(8, ptrCookieSize)
	brRelease           = br(9, ptrCookieSize)
	brDecRefs           = br(10, ptrCookieSize)
	brNoop              = br(12, 0)
	brSpawnLooper       = br(13, 0)
	brFinished          = br(14, 0)
	brDeadBinder        = br(15, 8)
	brClearDeathDone    = br(16, 8)
	brFailedReply       = br(17, 0)
	brFrozenReply       = br(18, 0)
	brSpamSuspect       = br(19, 0)
	brPendingFrozen     = br(20, 0)
)

// Flags of a transaction.
const (
	flagOneWay    = 0x01
	flagStatus    = 0x08 // the data is a 32-bit status
	flagAcceptFDs = 0x10
)

// objectType is the first word of an object in a parcel.
type objectType uint32

func packType(a, b, c byte) objectType {
	return objectType(a)<<24 | objectType(b)<<16 | objectType(c)<<8 | 0x85
}

var (
	typeBinder     = packType('s', 'b', '*')
	typeWeakBinder = packType('w', 'b', '*')
	typeHandle     = packType('s', 'h', '*')
	typeWeakHandle = packType('w', 'h', '*')
	typeFD         = packType('f', 'd', '*')
	typeFDArray    = packType('f', 'd', 'a')
	typeBuffer     = packType('p', 't', '*')
)

// size returns the bytes that an object of this type takes in a parcel, 0 if the type is unknown.
func (t objectType) size() int {
	switch t {
	case typeBinder, typeWeakBinder, typeHandle, typeWeakHandle, typeFD:
		return flatObjectSize
	case typeBuffer:
		return bufferObjectSize
	case typeFDArray:
		return fdArraySize
	}
	return 0
}

const (
	objectAcceptsFDs   = 0x100
	objectPriorityMask = 0x7f // the lowest priority, so that the driver raises none
	bufferHasParent    = 0x01
)

// Transaction codes that every object answers to, and the range of an interface's own.
const (
	FirstCall     uint32 = 1
	LastCall      uint32 = 0x00ffffff
	CodePing      uint32 = '_'<<24 | 'P'<<16 | 'N'<<8 | 'G'
	CodeDump      uint32 = '_'<<24 | 'D'<<16 | 'M'<<8 | 'P'
	CodeInterface uint32 = '_'<<24 | 'N'<<16 | 'T'<<8 | 'F'
	CodeSysProps  uint32 = '_'<<24 | 'S'<<16 | 'P'<<8 | 'R'
	CodeShell     uint32 = '_'<<24 | 'C'<<16 | 'M'<<8 | 'D'
)
