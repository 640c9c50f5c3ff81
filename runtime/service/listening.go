package service

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/spec"
)

// lookEvery is how often a starting service is looked at.
const lookEvery = 5 * time.Millisecond

// awaitListening returns once process pid listens on every endpoint, as seen from outside. An error is an
// ErrNotListening that says which ones are missing, and whether the process has died.
func awaitListening(ctx context.Context, pid int, endpoints []spec.Endpoint) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%w: it has exited", ErrNotListening)
	}
	defer unix.Close(pidfd)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		missing, err := notListening(pid, endpoints)
		if err == nil && len(missing) == 0 {
			return nil
		}
		if dead(pidfd) {
			return fmt.Errorf("%w: it has exited", ErrNotListening)
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w on %s: process %d (%s) does not do so; it has to listen itself, in the foreground, not in a child",
				ErrNotListening, strings.Join(missing, ", "), pid, comm(pid))
		}
	}
}

func dead(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

func comm(pid int) string {
	data, err := os.ReadFile(procPath(pid, "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// notListening names the endpoints on which none of pid's own descriptors listens.
func notListening(pid int, endpoints []spec.Endpoint) ([]string, error) {
	own, err := socketInodes(pid)
	if err != nil {
		return nil, err
	}
	listening := map[spec.Endpoint]bool{}
	for _, e := range endpoints {
		var found []string
		switch e.Network {
		case "unix":
			found, err = unixListeners(pid, own)
		default:
			found, err = tcpListeners(pid, own)
		}
		if err != nil {
			return nil, err
		}
		listening[e] = slices.Contains(found, e.Address)
		if ap, err := netip.ParseAddrPort(e.Address); err == nil && !listening[e] {
			// Listening on every address is listening on this one.
			listening[e] = slices.Contains(found, netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()).String()) ||
				slices.Contains(found, netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port()).String())
		}
	}
	var missing []string
	for _, e := range endpoints {
		if !listening[e] {
			missing = append(missing, e.Address)
		}
	}
	return missing, nil
}

// socketInodes is the set of sockets that pid has open.
func socketInodes(pid int) (map[string]bool, error) {
	dir := procPath(pid, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if ino, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			own[strings.TrimSuffix(ino, "]")] = true
		}
	}
	return own, nil
}

// unixListeners are the paths at which one of the sockets own listens.
func unixListeners(pid int, own map[string]bool) ([]string, error) {
	var paths []string
	// Num RefCount Protocol Flags Type St Inode Path
	err := eachLine(procPath(pid, "net/unix"), func(f []string) {
		const acceptsConnections = 0x10000 // __SO_ACCEPTCON
		if len(f) < 8 || !own[f[6]] {
			return
		}
		if flags, err := strconv.ParseUint(f[3], 16, 64); err == nil && flags&acceptsConnections != 0 {
			paths = append(paths, strings.Join(f[7:], " "))
		}
	})
	return paths, err
}

// tcpListeners are the addresses at which one of the sockets own listens.
func tcpListeners(pid int, own map[string]bool) ([]string, error) {
	var addrs []string
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		err := eachLine(procPath(pid, file), func(f []string) {
			if len(f) < 10 || f[3] != "0A" || !own[f[9]] {
				return
			}
			if ap, ok := parseProcAddr(f[1]); ok {
				addrs = append(addrs, ap.String())
			}
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) { // no IPv6
			return nil, err
		}
	}
	return addrs, nil
}

// parseProcAddr reads "0100007F:18EB": 32-bit words in the host's byte order, which is little endian.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), true
}

// eachLine calls f with the fields of every line of a table in /proc but the first.
func eachLine(path string, f func(fields []string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Scan()
	for lines.Scan() {
		f(strings.Fields(lines.Text()))
	}
	return lines.Err()
}

// awaitQuiet returns once every thread of pid sleeps, twice in a row with a pause between: it has nothing to do
// but wait. It gives up when ctx is done.
func awaitQuiet(ctx context.Context, pid int) error {
	const apart = 20 * time.Millisecond
	for calm := 0; calm < 2; {
		asleep, running, err := allAsleep(pid)
		if err != nil {
			return err
		}
		if calm++; !asleep {
			calm = 0
		}
		select {
		case <-time.After(apart):
		case <-ctx.Done():
			return fmt.Errorf("process %d (%s) does not come to rest after its start: thread %s runs", pid, comm(pid), running)
		}
	}
	return nil
}

func allAsleep(pid int) (asleep bool, running string, err error) {
	dir := procPath(pid, "task")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, "", err
	}
	for _, e := range entries {
		stat, err := os.ReadFile(filepath.Join(dir, e.Name(), "stat"))
		if err != nil {
			continue // the thread has ended
		}
		rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
		if state := strings.TrimSpace(rest)[0]; state != 'S' {
			return false, e.Name(), nil
		}
	}
	return true, "", nil
}
