package check

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/gate/route"
	"corsa.dev/corsa/runtime/unixdiag"
)

var kernelTests = []test{
	{Probe{
		Name: "clone3-set-tid", Tests: "does clone3 take the ids of new threads", RequiredBy: []string{EngineFork}, LeastKernel: "5.5",
		WayOut: "use Linux 5.5 or later, or allow clone3 in the seccomp profile around corsa",
	}, testClone3},
	{Probe{
		Name: "pidfd-open", Tests: "is there pidfd_open", RequiredBy: []string{EngineFork}, LeastKernel: "5.3", WayOut: "use Linux 5.3 or later",
	}, testPidfdOpen},
	{Probe{
		Name: "pidfd-getfd", Tests: "can descriptors be duplicated from another process", RequiredBy: []string{EngineFork}, LeastKernel: "5.6",
		WayOut: "use Linux 5.6 or later, or allow pidfd_getfd in the seccomp profile around corsa",
	}, testPidfdGetfd},
	{Probe{
		Name: "so-peerpidfd", Tests: "does a socket tell its peer as a pidfd", UsefulFor: "--app-key cgroup and pid without races over reused pids",
		LeastKernel: "6.5", WayOut: "use --app-key uid or connection, or Linux 6.5 or later",
	}, testPeerPidfd},
	{Probe{
		Name: "close-range", Tests: "is there close_range", UsefulFor: "quick clean-up of descriptors in an instance", LeastKernel: "5.9",
		WayOut: "none needed: descriptors are closed one by one",
	}, testCloseRange},
	{Probe{
		Name: "kcmp", Tests: "can kernel objects of two tasks be compared", UsefulFor: "finding stale epoll entries", LeastKernel: "3.5",
		WayOut: "use a kernel with CONFIG_KCMP",
	}, testKcmp},
	{Probe{
		Name: "unix-diag", Tests: "does the kernel tell the peer of a unix socket", UsefulFor: "services with internal socket pairs", LeastKernel: "3.3",
		WayOut: "use a kernel with CONFIG_UNIX_DIAG, or load the module unix_diag",
	}, testUnixDiag},
	{Probe{
		Name: "bpf-connect-unix", Tests: "can BPF lead an app's connect() to its instance", UsefulFor: "--path connect", LeastKernel: "6.7",
		WayOut: "none needed: connections are handed over or proxied; else Linux 6.7 or later with BTF, CONFIG_CGROUP_BPF, mounts of cgroup2 and bpffs, and root",
	}, testConnectUnix},
}

// testClone3 asks for a set of thread ids and says that it has no members, which kernels that know set_tid refuse as
// invalid; older ones find the structure too big. No process is made.
func testClone3() (string, error) {
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
	}{setTID: 1}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == unix.EINVAL {
		return "", nil
	}
	return "", judge("clone3", errno)
}

func testPidfdOpen() (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", judge("pidfd_open", err)
	}
	return "", unix.Close(fd)
}

func testPidfdGetfd() (string, error) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", judge("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return "", judge("pidfd_getfd", err)
	}
	return "", unix.Close(fd)
}

func testPeerPidfd() (string, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return "", judge("SO_PEERPIDFD", err)
	}
	return "", unix.Close(fd)
}

func testCloseRange() (string, error) {
	// No descriptor is that high, so none is closed.
	return "", judge("close_range", unix.CloseRange(1<<31-2, 1<<31-1, 0))
}

func testKcmp() (string, error) {
	pid := os.Getpid()
	_, err := kcmp(pid, pid, kcmpFiles, 0, 0)
	return "", judge("kcmp", err)
}

func testUnixDiag() (string, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	var ends [2]unix.Stat_t
	for i, fd := range pair {
		if err := unix.Fstat(fd, &ends[i]); err != nil {
			return "", err
		}
	}
	fd, err := unixdiag.Open(0)
	if err != nil {
		return "", fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	s, err := unixdiag.Ask(fd, ends[0].Ino, make([]byte, unixdiag.ReplySize))
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		return "", absent("%v", err)
	case err != nil:
		return "", err
	case s.Peer != ends[1].Ino:
		return "", absent("it tells peer %d for %d", s.Peer, ends[1].Ino)
	}
	return "", nil
}

// testConnectUnix has the kernel verify the program that would do it.
func testConnectUnix() (string, error) {
	detail, err := route.Probe()
	if errors.Is(err, route.ErrUnsupported) {
		return "", absent("%v", err)
	}
	return detail, err
}
