package client

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// Features are optional abilities that the module has on this kernel.
type Features uint64

// The features, as in the header.
const (
	FeatureCrash  Features = 1 << iota // fatal signals are intercepted
	FeatureExit                        // exit() and exit_group() as well
	FeatureMemory                      // Session.Memory counts pages
	FeatureBinder                      // built with the Binder gate
)

// Version is what the module says about itself.
type Version struct {
	Major, Minor int
	Features     Features
}

func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v.Major, v.Minor)
	for bit, name := range []string{"crash", "exit", "memory", "binder"} {
		if v.Features&(1<<bit) != 0 {
			s += " " + name
		}
	}
	return s
}

// Device is the open /dev/corsa. Its methods may be called from any goroutine.
type Device struct {
	w       Wire
	fd      int
	version Version
}

// Open opens the device and checks its version. The errors to test for are ErrNoModule, ErrVersion and os.ErrPermission.
func Open() (*Device, error) { return OpenWith(wire()) }

// OpenWith is Open over another wire, for tests.
func OpenWith(w Wire) (*Device, error) {
	fd, errno := w.Open()
	switch errno {
	case 0:
	case unix.ENOENT, unix.ENODEV, unix.ENXIO:
		return nil, &Error{Op: "open", Object: path, Errno: errno, err: ErrNoModule}
	default:
		return nil, &Error{Op: "open", Object: path, Errno: errno}
	}
	d := &Device{w: w, fd: fd}
	var a uapi.Version
	a.Size = uint32(unsafe.Sizeof(a))
	if _, errno := w.Ioctl(fd, uapi.ReqVersion, unsafe.Pointer(&a)); errno != 0 {
		return nil, errors.Join(failure(uapi.ReqVersion, "", errno), d.Close())
	}
	d.version = Version{int(a.Major), int(a.Minor), Features(a.Features)}
	if d.version.Major != uapi.ABIMajor {
		err := &Error{
			Op: fmt.Sprintf("the module has version %s and this program %d.%d", d.version, uapi.ABIMajor, uapi.ABIMinor), Errno: unix.ENOTTY, err: ErrVersion,
		}
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Version says what the module is.
func (d *Device) Version() Version { return d.version }

// Close closes the device. Sessions are not affected.
func (d *Device) Close() error { return unix.Close(d.fd) }

// refusalRoom is for how many refusals there is room in a request.
const refusalRoom = 64

// Attached is how Attach found the process.
type Attached struct {
	Joined  bool // it had a persistent session already, which was joined
	Threads int
}

// Attach takes the process behind pidfd, which the caller keeps. persist: the session outlives its descriptors; joining
// one does not change it. The errors to test for are ErrRefused (*Refused), ErrBusy (it has a session that is not
// persistent), ErrOver and os.ErrPermission.
func (d *Device) Attach(pidfd int, persist bool) (*Session, Attached, error) {
	refusals := make([]uapi.Refusal, refusalRoom)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&refusals[0])
	a := uapi.Attach{
		PIDFD: int32(pidfd), RefusalCap: refusalRoom, Refusals: uint64(uintptr(unsafe.Pointer(&refusals[0]))),
	}
	a.Size = uint32(unsafe.Sizeof(a))
	if persist {
		a.Flags = 1
	}
	fd, errno := d.w.Ioctl(d.fd, uapi.ReqAttach, unsafe.Pointer(&a))
	if errno != 0 {
		return nil, Attached{}, refused(uapi.ReqAttach, fmt.Sprintf("pidfd %d", pidfd), errno, refusals, a.RefusalCount)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, Attached{}, errors.Join(fmt.Errorf("session: %w", err), unix.Close(fd))
	}
	s := &Session{w: d.w, fd: fd, events: os.NewFile(uintptr(fd), "corsa session")}
	_, s.direct = d.w.(kernel)
	return s, Attached{Joined: a.Joined != 0, Threads: int(a.Threads)}, nil
}
