package fdplan

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ownDescriptors is a Capturer of this process.
func ownDescriptors(t *testing.T) *Capturer {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &Capturer{PID: os.Getpid(), PIDFD: fd}
}

// TestIsSemaphore asserts that eventfds are told apart at every count, and hold afterwards what they held.
func TestIsSemaphore(t *testing.T) {
	c := ownDescriptors(t)
	for _, semaphore := range []bool{false, true} {
		for _, count := range []uint64{0, 1, 2, 3, 1000} {
			flags := unix.EFD_NONBLOCK | unix.EFD_CLOEXEC
			if semaphore {
				flags |= unix.EFD_SEMAPHORE
			}
			fd, err := unix.Eventfd(0, flags)
			if err == nil && count > 0 {
				err = addCount(fd, count)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.isSemaphore(fd, count); err != nil || got != semaphore {
				t.Errorf("semaphore %v, count %d: %v, %v", semaphore, count, got, err)
			}
			var left uint64
			for {
				n, err := takeCount(fd)
				if err != nil {
					break
				}
				left += n
			}
			if left != count {
				t.Errorf("semaphore %v: %d are left of %d", semaphore, left, count)
			}
			unix.Close(fd)
		}
	}
}

// TestIsDue asserts that a timer whose time has come is told from one that is not armed.
func TestIsDue(t *testing.T) {
	c := ownDescriptors(t)
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if due, err := c.isDue(fd, false); err != nil || due {
		t.Errorf("an idle timer is due: %v, %v", due, err)
	}
	// One whose interrupt is late: it fires while it is looked at.
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.Timespec{Nsec: 1e6}}, nil); err != nil {
		t.Fatal(err)
	}
	if due, err := c.isDue(fd, true); err != nil || !due {
		t.Errorf("a timer that fires a moment later is not due: %v, %v", due, err)
	}
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.Timespec{Nsec: 1}}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	if due, err := c.isDue(fd, false); err != nil || !due {
		t.Errorf("a timer that has fired is not due: %v, %v", due, err)
	}
}
