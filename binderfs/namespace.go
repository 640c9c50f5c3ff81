package binderfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process with several threads, as every Go program is, cannot enter a user namespace. A child that has just been forked
// has one thread. It shares the table of open files with its parent, so that the directory that it opens is the parent's.

// childSteps are what a child does, in this order. In errors they are named.
const (
	stepUser = iota
	stepIPC
	stepMountNS
	stepMount
	stepUnmount
	stepOpen
	stepCount
)

var stepNames = [stepCount]string{
	"enter the user namespace", "enter the IPC namespace", "enter the mount namespace", "mount", "unmount", "open the root",
}

// childWork tells a child what to do. The child must not touch anything that Go's runtime cares for, so all is plain numbers.
type childWork struct {
	user, ipc, mount int // namespace descriptors; -1: stay
	path, data, kind uintptr
	unmount          bool
	report           int // where outcome goes
}

// outcome is what a child reports.
type outcome struct {
	step, errno, fd int32
}

func mountIn(n Namespaces, dir, data string) (*os.File, error) {
	if !n.own() {
		return runChild(n, dir, data, false)
	}
	if err := unix.Mount(fsType, dir, fsType, unix.MS_NOSUID|unix.MS_NOEXEC, data); err != nil {
		return nil, err
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return root, nil
}

func unmountIn(n Namespaces, dir string) error {
	if n.own() {
		return unix.Unmount(dir, unix.MNT_DETACH)
	}
	_, err := runChild(n, dir, "", true)
	return err
}

// runChild mounts or unmounts in a forked child that enters the namespaces first.
func runChild(n Namespaces, dir, data string, unmount bool) (*os.File, error) {
	path, err := unix.BytePtrFromString(dir)
	if err != nil {
		return nil, err
	}
	options, err := unix.BytePtrFromString(data)
	if err != nil {
		return nil, err
	}
	kind, err := unix.BytePtrFromString(fsType)
	if err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	defer func() { _, _ = unix.Close(pipe[0]), unix.Close(pipe[1]) }()
	w := childWork{
		user: descriptor(n.User), ipc: descriptor(n.IPC), mount: descriptor(n.Mount), path: uintptr(unsafe.Pointer(path)),
		data: uintptr(unsafe.Pointer(options)), kind: uintptr(unsafe.Pointer(kind)), unmount: unmount, report: pipe[1],
	}
	pid, err := fork(&w)
	runtime.KeepAlive(path)
	runtime.KeepAlive(options)
	runtime.KeepAlive(kind)
	runtime.KeepAlive(n)
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return nil, fmt.Errorf("process %d in the namespaces ended with status %#x", pid, status)
	}
	return readOutcome(pipe[0], dir)
}

func readOutcome(fd int, dir string) (*os.File, error) {
	var o outcome
	b := unsafe.Slice((*byte)(unsafe.Pointer(&o)), unsafe.Sizeof(o))
	if n, err := unix.Read(fd, b); err != nil || n != len(b) {
		return nil, fmt.Errorf("no word from the process in the namespaces (%d bytes, %w)", n, err)
	}
	if o.errno != 0 {
		return nil, fmt.Errorf("%s: %w", stepNames[o.step], unix.Errno(o.errno))
	}
	if o.fd < 0 {
		return nil, nil
	}
	return os.NewFile(uintptr(o.fd), dir), nil
}

func descriptor(f *os.File) int {
	if f == nil {
		return -1
	}
	return int(f.Fd())
}

// fork runs child in a process of its own. All signals are blocked meanwhile: the child would run Go's handlers in a runtime
// that has lost its threads.
//
//go:norace
func fork(w *childWork) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, err
	}
	pid, errno := forkChild(w)
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	if errno != 0 {
		return 0, errno
	}
	if err != nil {
		return 0, err
	}
	return pid, nil
}

//go:norace
//go:nosplit
//go:noinline
func forkChild(w *childWork) (int, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_FILES, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	child(w)
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// child does the work and reports. It runs on a copy of the parent's memory and calls nothing but the kernel.
//
//go:norace
//go:nosplit
//go:noinline
func child(w *childWork) {
	o := outcome{fd: -1}
	var errno unix.Errno
	for i := int32(0); i < stepCount && errno == 0; i++ {
		o.step = i
		switch i {
		case stepUser:
			if w.user >= 0 {
				_, _, errno = unix.RawSyscall(unix.SYS_SETNS, uintptr(w.user), unix.CLONE_NEWUSER, 0)
			}
		case stepIPC:
			if w.ipc >= 0 {
				_, _, errno = unix.RawSyscall(unix.SYS_SETNS, uintptr(w.ipc), unix.CLONE_NEWIPC, 0)
			}
		case stepMountNS:
			if w.mount >= 0 {
				_, _, errno = unix.RawSyscall(unix.SYS_SETNS, uintptr(w.mount), unix.CLONE_NEWNS, 0)
			}
		case stepMount:
			if !w.unmount {
				_, _, errno = unix.RawSyscall6(unix.SYS_MOUNT, w.kind, w.path, w.kind, unix.MS_NOSUID|unix.MS_NOEXEC, w.data, 0)
			}
		case stepUnmount:
			if w.unmount {
				_, _, errno = unix.RawSyscall(unix.SYS_UMOUNT2, w.path, unix.MNT_DETACH, 0)
			}
		case stepOpen:
			if !w.unmount {
				var fd uintptr
				at := ^uintptr(99) // AT_FDCWD, -100
				fd, _, errno = unix.RawSyscall6(unix.SYS_OPENAT, at, w.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0, 0)
				if errno == 0 {
					o.fd = int32(fd)
				} else {
					_, _, _ = unix.RawSyscall(unix.SYS_UMOUNT2, w.path, unix.MNT_DETACH, 0)
				}
			}
		}
	}
	o.errno = int32(errno)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(w.report), uintptr(unsafe.Pointer(&o)), unsafe.Sizeof(o))
}
