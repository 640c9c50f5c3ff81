package fdplan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
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

func (c *Capturer) timer(p FD, info []byte) error {
	var err error
	if p.Clock, err = strconv.Atoi(Field(info, "clockid")); err != nil {
		return err
	}
	if _, err := fmt.Sscanf(Field(info, "it_value"), "(%d, %d)", &p.Value[0], &p.Value[1]); err != nil {
		return err
	}
	if _, err := fmt.Sscanf(Field(info, "it_interval"), "(%d, %d)", &p.Interval[0], &p.Interval[1]); err != nil {
		return err
	}
	if _, err := fmt.Sscanf(Field(info, "settime flags"), "%o", &p.SetFlags); err != nil {
		return err
	}
	ticks, err := strconv.ParseUint(Field(info, "ticks"), 10, 64)
	if err != nil {
		return err
	}
	armed := p.Value != [2]int64{}
	p.Due = ticks > 0
	if !p.Due && !armed {
		if p.Due, err = c.isDue(p.FD, p.Interval != [2]int64{}); err != nil {
			return err
		}
	}
	if p.SetFlags&unix.TFD_TIMER_ABSTIME != 0 && armed { // it is for a time of the clock: what is left says which
		var now unix.Timespec
		if err := unix.ClockGettime(int32(p.Clock), &now); err != nil {
			return fmt.Errorf("clock %d: %w", p.Clock, err)
		}
		at := unix.NsecToTimespec(now.Nano() + p.Value[0]*1e9 + p.Value[1])
		p.Value = [2]int64{at.Sec, at.Nsec}
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

// timer makes a timerfd that goes on where the captured one was. One that has fired unread fires again at once.
func (m *Maker) timer(p *FD) error {
	fd, err := unix.TimerfdCreate(p.Clock, unix.TFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
	if err := m.add(p, fd, err); err != nil {
		return err
	}
	set := unix.ItimerSpec{
		Value:    unix.Timespec{Sec: p.Value[0], Nsec: p.Value[1]},
		Interval: unix.Timespec{Sec: p.Interval[0], Nsec: p.Interval[1]},
	}
	if p.Due {
		set.Value = unix.Timespec{Nsec: 1}
		if p.SetFlags&unix.TFD_TIMER_ABSTIME != 0 { // not at the epoch: every interval since would count
			if err := unix.ClockGettime(int32(p.Clock), &set.Value); err != nil {
				return fmt.Errorf("clock %d: %w", p.Clock, err)
			}
		}
	}
	return unix.TimerfdSettime(fd, p.SetFlags, &set, nil)
}
