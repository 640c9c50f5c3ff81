package fork

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSigaction is struct kernel_sigaction of x86-64, not libc's.
type kernelSigaction struct {
	handler, flags, restorer, mask uint64
}

// muteStops has the kernel send this process no SIGCHLD when a thread that it traces stops: the loop waits for that anyway, and a
// handler that runs in some thread, which may have to be woken for it, comes between the stop and what is done about it.
// What the handler is and does when a child ends remains as it is.
var muteStops = sync.OnceValue(func() error {
	const noStops = 1 // SA_NOCLDSTOP
	var act kernelSigaction
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&act)), unsafe.Sizeof(act.mask), 0, 0)
	if e == 0 {
		act.flags |= noStops
		_, _, e = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&act)), 0, unsafe.Sizeof(act.mask), 0, 0)
	}
	if e != 0 {
		return fmt.Errorf("sigaction of SIGCHLD: %w", e)
	}
	return nil
})
