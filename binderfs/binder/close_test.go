package binder_test

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
)

// A Conn is closed, although signals keep its threads from noticing at once: the driver tells a thread only once.
func TestCloseAmongSignals(t *testing.T) {
	device := roletest.Device(t)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	storm.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				interruptThreads()
			}
		}
	})
	defer storm.Wait()
	defer close(stop)
	for range 150 {
		conn, err := binder.Open(device, binder.Options{Threads: 4, Eager: true})
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error)
		time.AfterFunc(time.Millisecond, func() { closed <- conn.Close() })
		select {
		case err := <-closed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a thread of the Conn has never returned from the driver")
		}
	}
}

// interruptThreads sends each thread of the process the signal by which Go interrupts its own.
func interruptThreads() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // the next time will do
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // it may have ended
		}
	}
}
