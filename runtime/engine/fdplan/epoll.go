package fdplan

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (c *Capturer) epoll(fd int) error {
	info, err := c.info(fd)
	if err != nil {
		return err
	}
	p := FD{FD: fd, Kind: Epoll}
	if p.Flags, err = openFlags(info); err != nil {
		return err
	}
	var stale []int
	entries := map[int]uint32{} // by number: it can be there more than once, for different files
	slots := map[int]epollSlot{}
	for line := range bytes.Lines(info) {
		if !bytes.HasPrefix(line, []byte("tfd:")) {
			continue
		}
		w, ino, err := parseWatch(line)
		if err != nil {
			return fmt.Errorf("fdinfo line %q: %w", line, err)
		}
		slot := epollSlot{uint32(fd), uint32(w.FD), entries[w.FD]}
		entries[w.FD]++
		same, err := c.watches(w.FD, ino, slot)
		if err != nil {
			return err
		}
		if !same {
			stale = append(stale, len(p.Watches))
			slots[len(p.Watches)] = slot
		}
		p.Watches = append(p.Watches, w)
	}
	for _, i := range stale { // c.info's buffer is free now
		if err := c.stale(fd, &p.Watches[i], slots[i]); err != nil {
			return err
		}
	}
	c.plan.FDs = append(c.plan.FDs, p)
	return nil
}

// epollSlot is struct kcmp_epoll_slot: the nth entry of set efd that was added under number tfd.
type epollSlot struct{ efd, tfd, nth uint32 }

// watches reports whether descriptor fd is the file, with inode ino, of the entry in slot.
func (c *Capturer) watches(fd int, ino uint64, slot epollSlot) (bool, error) {
	link, open := c.links[fd]
	if !open {
		return false, nil
	}
	n, numbered := LinkInode(link)
	if numbered && (n != ino || strings.HasPrefix(link, "socket:")) { // a socket is one file only
		return n == ino, nil
	}
	return c.isEntry(fd, slot)
}

func (c *Capturer) isEntry(fd int, slot epollSlot) (bool, error) {
	const kcmpEpollTFD = 7
	r, _, e := unix.RawSyscall6(unix.SYS_KCMP, uintptr(c.PID), uintptr(c.PID), kcmpEpollTFD, uintptr(fd), uintptr(unsafe.Pointer(&slot)), 0)
	if e != 0 {
		return false, fmt.Errorf("compare fd %d with an entry of epoll set %d: kcmp: %w", fd, slot.efd, gone(c.PID, e))
	}
	return r == 0, nil
}

// stale finds the descriptor that has the file of an entry whose own number is closed, or another file.
func (c *Capturer) stale(set int, w *Watch, slot epollSlot) error {
	for fd := range sortedKeys(c.links) {
		same, err := c.isEntry(fd, slot)
		if err != nil {
			return err
		}
		if !same {
			continue
		}
		w.File = 1 + fd
		if _, w.Taken = c.links[w.FD]; w.Taken {
			info, err := c.info(w.FD)
			if err != nil {
				return err
			}
			flags, err := openFlags(info)
			if err != nil {
				return err
			}
			w.Cloexec = flags&unix.O_CLOEXEC != 0
		}
		return nil
	}
	c.block(set, fmt.Sprintf("epoll entry for fd %d", w.FD), "no descriptor of the process has the watched file any more",
		"the service has to take a descriptor out of the set before it closes it")
	return nil
}

// HasStale reports whether the plan has an epoll entry whose file is not under its number any more.
func (p *FD) HasStale() bool {
	return slices.ContainsFunc(p.Watches, func(w Watch) bool { return w.File != 0 })
}

// Watches parses the interest list in an epoll's fdinfo. The inode that each entry watches is at its index in inodes.
func Watches(info []byte) (list []Watch, inodes []uint64, err error) {
	for line := range bytes.Lines(info) {
		if !bytes.HasPrefix(line, []byte("tfd:")) {
			continue
		}
		w, ino, err := parseWatch(line)
		if err != nil {
			return nil, nil, fmt.Errorf("fdinfo line %q: %w", line, err)
		}
		list, inodes = append(list, w), append(inodes, ino)
	}
	return list, inodes, nil
}

// parseWatch parses a line of an epoll's fdinfo: "tfd: %8d events: %8x data: %16llx  pos:%lli ino:%lx sdev:%x".
func parseWatch(line []byte) (w Watch, ino uint64, err error) {
	value := func(name string, base int) (v uint64) {
		_, rest, ok := bytes.Cut(line, []byte(name+":"))
		if !ok {
			err = errors.Join(err, fmt.Errorf("no %s", name))
			return 0
		}
		rest = bytes.TrimLeft(rest, " ")
		if i := bytes.IndexAny(rest, " \n"); i >= 0 {
			rest = rest[:i]
		}
		v, e := strconv.ParseUint(string(rest), base, 64)
		err = errors.Join(err, e)
		return v
	}
	w = Watch{FD: int(value("tfd", 10)), Events: uint32(value("events", 16)), Data: value("data", 16)}
	return w, value("ino", 16), err
}
