package socket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// name tells which app the client of a connection is, as the kernel reports it.
func (g *Gate) name(ep *endpoint, fd int, id engine.ConnID) (instance.App, error) {
	kind := g.cfg.Service.AppKey
	if kind == spec.AppKeyConnection {
		return instance.App("conn:" + strconv.FormatUint(uint64(id), 10)), nil
	}
	if ep.network != "unix" {
		if kind != spec.AppKeyUID {
			return "", fmt.Errorf("app key %q needs a unix socket", kind)
		}
		uid, err := clientUID(fd)
		if err != nil {
			return "", err
		}
		return g.user(uid)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return "", fmt.Errorf("SO_PEERCRED: %w", err)
	}
	switch kind {
	case spec.AppKeyUID:
		return g.user(cred.Uid)
	case spec.AppKeyPID:
		if cred.Pid == 0 {
			return "", errors.New("the client is in a pid namespace that cannot be seen from here; use another app key")
		}
		start, err := startTime(int(cred.Pid))
		return instance.App(fmt.Sprintf("pid:%d.%d", cred.Pid, start)), err
	case spec.AppKeyCgroup:
		path, err := peerCgroup(fd)
		return instance.App("cgroup:" + path), err
	}
	return "", fmt.Errorf("unknown app key %q", kind)
}

// user is the app of a uid. In a user namespace all users without an id there are shown as one, and nobody is to get the
// instance of another.
func (g *Gate) user(uid uint32) (instance.App, error) {
	if g.unmapped >= 0 && int64(uid) == g.unmapped {
		return "", fmt.Errorf("the client's user has no id in this user namespace, where all such are uid %d; way out: run corsa as root of the host, or another app key", uid)
	}
	return instance.App("uid:" + strconv.FormatUint(uint64(uid), 10)), nil
}

// unmappedUID is the uid of all users that have none in our user namespace, -1 if every user has one.
func unmappedUID() (int64, error) {
	const everybody = 1<<32 - 1
	data, err := os.ReadFile("/proc/self/uid_map")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without user namespaces
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	mapped := uint64(0)
	for line := range strings.Lines(string(data)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return 0, fmt.Errorf("/proc/self/uid_map: %q: %w", line, err)
		}
		mapped += count
	}
	if mapped == everybody {
		return -1, nil
	}
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// startTime tells processes with the same pid apart: one must never get the instance of the other.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("the client is gone: %w", err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[19], 10, 64)
}

const soPeerPIDFD = 77 // SO_PEERPIDFD, Linux 6.5

// peerCgroup reads the cgroup of the client. The pidfd makes sure that it is not that of a process which has got the
// client's pid since.
func peerCgroup(fd int) (string, error) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPIDFD)
	if err != nil {
		return "", fmt.Errorf("SO_PEERPIDFD (Linux 6.5 or later is needed for app key \"cgroup\"): %w", err)
	}
	defer unix.Close(pidfd)
	pid, err := pidOf(pidfd)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return "", fmt.Errorf("the client is gone: %w", err)
	}
	return pickCgroup(b), nil
}

func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err == nil && pid <= 0 {
				err = errors.New("the client is gone, or in a pid namespace that cannot be seen from here")
			}
			return pid, err
		}
	}
	return 0, errors.New("fdinfo of a pidfd has no Pid")
}

// pickCgroup chooses from the lines of /proc/PID/cgroup: the unified hierarchy; where that is mounted but
// not used (hybrid hosts), systemd's, else the first in which the process is not at the root.
func pickCgroup(b []byte) string {
	var unified, systemd, other string
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		switch {
		case f[0] == "0" && f[1] == "":
			unified = f[2]
		case f[1] == "name=systemd":
			systemd = f[2]
		case other == "":
			other = f[2]
		}
	}
	for _, path := range []string{unified, systemd, other} {
		if path != "" {
			return path
		}
	}
	return "/"
}
