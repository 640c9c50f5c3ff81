package fork

import (
	"os"
	"os/signal"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A signal that arrives during the look at a process says nothing about it. Most often it is the one by which the Go
// runtime preempts a thread.
func TestAliveUnderSignals(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGUSR1)
	defer signal.Stop(caught)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, tid := os.Getpid(), unix.Gettid()
	fd, err := unix.PidfdOpen(self, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := process{identity{PID: self}, fd}
	defer p.close()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
				if err := unix.Tgkill(self, tid, unix.SIGUSR1); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	for range 200_000 {
		if !p.alive() {
			t.Error("a process that runs was called dead")
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
