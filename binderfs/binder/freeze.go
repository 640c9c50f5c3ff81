package binder

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrBusy says that a process could not be frozen because a transaction in it was not done in time.
var ErrBusy = errors.New("process has unfinished transactions")

// FrozenInfo tells what has been sent to a frozen process.
type FrozenInfo struct {
	SyncReceived  bool // a call came, and failed, since it was frozen
	SyncPending   bool // a call came while it was being frozen
	AsyncReceived bool // a oneway transaction came and waits
}

// Freeze stops transactions to all Binder devices that process pid, as the caller's pid namespace numbers it, has open: calls
// fail with ErrFrozen, oneway transactions wait. It waits that long, with a resolution of 1 ms, for transactions that the
// process is in, and returns ErrBusy if one is left; then nothing is frozen. The process itself runs on.
func (c *Conn) Freeze(pid int, timeout time.Duration) error {
	return c.freeze("freeze", freezeInfo{pid: uint32(pid), enable: 1, timeoutMS: uint32(timeout.Milliseconds())})
}

// Unfreeze ends what Freeze has begun. Oneway transactions that wait are delivered.
func (c *Conn) Unfreeze(pid int) error { return c.freeze("unfreeze", freezeInfo{pid: uint32(pid)}) }

func (c *Conn) freeze(what string, f freezeInfo) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	err := retry(func() error { return ioctl(c.fd, ioctlFreeze, unsafe.Pointer(&f)) })
	return processError(what, int(f.pid), err)
}

// FrozenInfo asks what has happened to process pid since it was frozen.
func (c *Conn) FrozenInfo(pid int) (FrozenInfo, error) {
	if err := c.enter(); err != nil {
		return FrozenInfo{}, err
	}
	defer c.leave()
	s := frozenStatus{pid: uint32(pid)}
	if err := ioctl(c.fd, ioctlFrozenInfo, unsafe.Pointer(&s)); err != nil {
		return FrozenInfo{}, processError("ask about", pid, err)
	}
	return FrozenInfo{SyncReceived: s.syncReceived&1 != 0, SyncPending: s.syncReceived&2 != 0, AsyncReceived: s.asyncReceived != 0}, nil
}

func processError(what string, pid int, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		err = ErrBusy
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("it has no binder device open: %w", err)
	}
	return fmt.Errorf("%s binder of process %d: %w", what, pid, err)
}

// retry repeats what a signal has interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
