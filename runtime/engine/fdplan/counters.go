package fdplan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// What fdinfo does not tell of eventfds and timerfds on every kernel is found out on a duplicate. No thread of the
// process runs meanwhile, and everything is put back.

// isSemaphore reports whether the eventfd was made with EFD_SEMAPHORE. Before Linux 6.5 only reading it tells: a semaphore
// gives one at a time.
func (c *Capturer) isSemaphore(fd int, count uint64) (bool, error) {
	dup, err := unix.PidfdGetfd(c.PIDFD, fd, 0)
	if err != nil {
		return false, gone(c.PID, err)
	}
	defer unix.Close(dup)
	if count > ^uint64(0)-4 {
		return false, fmt.Errorf("its count is %d, so full that it cannot be looked at", count)
	}
	// With two in it, it can be read without waiting, and what is read differs.
	const added = 2
	if err := addCount(dup, added); err != nil {
		return false, err
	}
	got, err := takeCount(dup)
	if err != nil {
		return false, err
	}
	if got == count+added {
		if count == 0 {
			return false, nil
		}
		return false, addCount(dup, count)
	}
	for range added - 1 { // the first has been taken
		if _, err := takeCount(dup); err != nil {
			return false, err
		}
	}
	return true, nil
}

func addCount(fd int, n uint64) error {
	_, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, n))
	return err
}

func takeCount(fd int) (uint64, error) {
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// How long a timer is watched whose time may have come, on a kernel with timers of high resolution. One with an interval
// is hardly ever idle, so it is worth the wait: the interrupt may be late on a virtual machine that has to wait itself.
const (
	leastLook    = 200 * time.Microsecond
	periodicLook = 50 * time.Millisecond
)

// isDue tells a timer whose time has come, but not its interrupt, from one that is not armed: both have no time left.
func (c *Capturer) isDue(fd int, periodic bool) (bool, error) {
	dup, err := unix.PidfdGetfd(c.PIDFD, fd, 0)
	if err != nil {
		return false, gone(c.PID, err)
	}
	defer unix.Close(dup)
	// One tick of the clock, where timers wait for that.
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC, &tick); err != nil {
		return false, err
	}
	look := max(leastLook, 2*time.Duration(tick.Nano()))
	if periodic {
		look = max(look, periodicLook)
	}
	limit := unix.NsecToTimespec(look.Nanoseconds())
	for {
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(dup), Events: unix.POLLIN}}, &limit, nil)
		if !errors.Is(err, unix.EINTR) {
			return n == 1, err
		}
	}
}
