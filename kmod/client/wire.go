package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// Request is the number of an ioctl; its String says what it does.
type Request = uapi.Request

// None stands for no record.
const None = uapi.None

// Wire carries requests to the kernel. There is a fake one in clienttest.
type Wire interface {
	// Open opens /dev/corsa.
	Open() (fd int, errno unix.Errno)
	// Ioctl carries a request with the structure at arg. ret is what ioctl() returns on success.
	Ioctl(fd int, req Request, arg unsafe.Pointer) (ret int, errno unix.Errno)
}

// kernel is the real wire.
type kernel struct{}

// path of the device.
const path = "/dev/corsa"

func (kernel) Open() (int, unix.Errno) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	var errno unix.Errno
	errors.As(err, &errno) // all errors of it are
	return fd, errno
}

func (kernel) Ioctl(fd int, req Request, arg unsafe.Pointer) (int, unix.Errno) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
		if errno != unix.EINTR { // the Go scheduler interrupts threads; the module has changed nothing then
			return int(r), errno
		}
	}
}

// wire is what requests go through by default.
func wire() Wire {
	if os.Getenv("CORSADEBUG") == "" {
		return kernel{}
	}
	return logged{kernel{}, os.Stderr}
}

// logged writes down what goes over a wire.
type logged struct {
	Wire
	to io.Writer
}

func (l logged) Open() (int, unix.Errno) {
	fd, errno := l.Wire.Open()
	fmt.Fprintf(l.to, "corsa.ko: open = %d %s\n", fd, unix.ErrnoName(errno))
	return fd, errno
}

func (l logged) Ioctl(fd int, req Request, arg unsafe.Pointer) (int, unix.Errno) {
	before := dump(req, arg)
	start := time.Now()
	ret, errno := l.Wire.Ioctl(fd, req, arg)
	fmt.Fprintf(l.to, "corsa.ko: %d: %s %s = %d %s %s %v\n", fd, req, before, ret, unix.ErrnoName(errno), dump(req, arg), time.Since(start))
	return ret, errno
}

// dump shows the structure of a request without its Go names, which are those of the header in another spelling.
func dump(req Request, arg unsafe.Pointer) string {
	switch req {
	case uapi.ReqVersion:
		return fmt.Sprintf("%+v", *(*uapi.Version)(arg))
	case uapi.ReqAttach:
		return fmt.Sprintf("%+v", *(*uapi.Attach)(arg))
	case uapi.ReqCheckpoint, uapi.ReqBranch:
		return fmt.Sprintf("%+v", *(*uapi.Copy)(arg))
	case uapi.ReqRestore:
		return fmt.Sprintf("%+v", *(*uapi.Restore)(arg))
	case uapi.ReqActivate:
		return fmt.Sprintf("%+v", *(*uapi.Activate)(arg))
	case uapi.ReqDiscard:
		return fmt.Sprintf("%+v", *(*uapi.Discard)(arg))
	case uapi.ReqList:
		return fmt.Sprintf("%+v", *(*uapi.List)(arg))
	case uapi.ReqFDs:
		return fmt.Sprintf("%+v", *(*uapi.FDs)(arg))
	case uapi.ReqGetFD:
		return fmt.Sprintf("%+v", *(*uapi.GetFD)(arg))
	case uapi.ReqCrash:
		return fmt.Sprintf("%+v", *(*uapi.Crash)(arg))
	case uapi.ReqBinderEnable:
		return fmt.Sprintf("%+v", *(*uapi.BinderEnable)(arg))
	case uapi.ReqBinderRoute:
		return fmt.Sprintf("%+v", *(*uapi.BinderRoute)(arg))
	case uapi.ReqMemory:
		return fmt.Sprintf("%+v", *(*uapi.Memory)(arg))
	}
	return "" // statistics and samples are printed by those who ask for them
}
