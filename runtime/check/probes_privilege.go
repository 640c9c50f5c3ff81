package check

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

var privilegeTests = []test{
	{Probe{
		Name: "architecture", Tests: "is the machine an x86-64", RequiredBy: []string{EngineFork, EngineKmod},
		WayOut: "use an x86-64 host",
	}, testArchitecture},
	{Probe{
		Name: "ptrace", Tests: "may a process of this user be traced", RequiredBy: []string{EngineFork, EngineCRIU},
		WayOut: "allow the ptrace system call in the seccomp profile around corsa, and set kernel.yama.ptrace_scope below 3",
	}, testPtrace},
	{Probe{
		Name: "ptrace-others", Tests: "may processes of other users be traced", UsefulFor: "services that change their user id",
		WayOut: "run corsa as root or with CAP_SYS_PTRACE",
	}, testPtraceOthers},
	{Probe{
		Name: "cap-sys-admin", Tests: "is CAP_SYS_ADMIN held", UsefulFor: "pid namespaces of instances, services with a seccomp filter",
		WayOut: "run corsa as root",
	}, capability(capSysAdmin)},
	{Probe{
		Name: "cap-checkpoint-restore", Tests: "is CAP_CHECKPOINT_RESTORE held", UsefulFor: "the same process ids in every instance",
		LeastKernel: "5.9", WayOut: "run corsa as root; CAP_SYS_ADMIN does as well",
	}, capability(capCheckpointRestore)},
	{Probe{
		Name: "cap-sys-resource", Tests: "is CAP_SYS_RESOURCE held", UsefulFor: "raising limits of services",
		WayOut: "grant it, or raise the limits (ulimit -H) before corsa starts",
	}, capability(capSysResource)},
	{Probe{
		Name: "user-namespaces", Tests: "can user namespaces be made", UsefulFor: "the same process ids in every instance without root",
		LeastKernel: "3.8", WayOut: "set user.max_user_namespaces above 0 and, where it exists, kernel.unprivileged_userns_clone to 1",
	}, testUserNamespaces},
}

func testArchitecture() (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", absent("this is %s", runtime.GOARCH)
	}
	return runtime.GOARCH, nil
}

func capability(number uint) func() (string, error) {
	return func() (string, error) {
		me, err := self()
		if err != nil {
			return "", err
		}
		if !me.can(number) {
			return "", absent("not among the effective capabilities")
		}
		return "", nil
	}
}

// testPtrace makes a request that names no process: the kernel says so (ESRCH), a seccomp filter does not get that far.
func testPtrace() (string, error) {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_CONT, 0, 0, 0, 0, 0)
	switch errno {
	case unix.ESRCH:
	case unix.ENOSYS, unix.EPERM:
		return "", absent("ptrace: %v", errno)
	default:
		return "", fmt.Errorf("ptrace: %w", errno)
	}
	if data, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		scope := strings.TrimSpace(string(data))
		if scope == "3" {
			return "", absent("kernel.yama.ptrace_scope is 3: nobody may trace")
		}
		return "kernel.yama.ptrace_scope is " + scope, nil
	}
	return "without Yama", nil
}

// testPtraceOthers asks for permission only; see checkAccess.
func testPtraceOthers() (string, error) {
	const init = 1
	pidfd, err := unix.PidfdOpen(init, 0)
	if err != nil {
		return "", judge("pidfd_open of process 1", err)
	}
	defer unix.Close(pidfd)
	_, err = unix.PidfdGetfd(pidfd, unusedFD, 0)
	switch {
	case errors.Is(err, unix.EBADF):
		return "process 1 could be", nil
	case errors.Is(err, unix.EPERM):
		me, selfErr := self()
		if selfErr == nil && me.can(capSysPtrace) {
			return "CAP_SYS_PTRACE is held, though process 1 is out of its reach", nil
		}
		return "", absent("CAP_SYS_PTRACE is not held%s", yama())
	default:
		return "", judge("pidfd_getfd from process 1", err)
	}
}

func testUserNamespaces() (string, error) {
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return "", absent("the kernel has none: %v", err)
	}
	limit, err := readNumber("/proc/sys/user/max_user_namespaces")
	switch {
	case err != nil:
		return "", err
	case limit == 0:
		return "", absent("user.max_user_namespaces is 0")
	}
	if allowed, err := readNumber("/proc/sys/kernel/unprivileged_userns_clone"); err == nil && allowed == 0 && os.Geteuid() != 0 {
		return "", absent("kernel.unprivileged_userns_clone is 0")
	}
	return fmt.Sprintf("at most %d", limit), nil
}
