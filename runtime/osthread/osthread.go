// Package osthread runs code that changes what belongs to a thread, such as its namespaces, on threads that end with it.
package osthread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls fn on an operating system thread that nothing else uses afterwards, waits, and returns fn's error. It is never the
// first thread of the process: that one cannot end, and /proc/self and /proc/net show its namespaces for the whole process.
func Run(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			done <- Run(fn) // this goroutine keeps the first thread meanwhile
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}
