package osthread

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { runtime.LockOSThread() } // the first goroutine, which runs TestMain, stays on the first thread

func TestMain(m *testing.M) {
	done := make(chan int)
	go func() { done <- m.Run() }()
	runtime.UnlockOSThread() // from here on any goroutine may get it
	os.Exit(<-done)
}

func TestNeverTheFirstThread(t *testing.T) {
	for range 10_000 {
		err := Run(func() error {
			if unix.Gettid() == os.Getpid() {
				t.Error("it ran on the first thread")
			}
			return unix.ENOTTY
		})
		if !errors.Is(err, unix.ENOTTY) {
			t.Fatal(err)
		}
	}
}
