package fork

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

var _ engine.Timed = (*instance)(nil)

// Deadline implements engine.Timed. The timeouts are those of calls that parking has broken off. Timers that send signals are not
// among what it looks at: only the process itself could ask when they expire.
func (in *instance) Deadline() (time.Time, bool) {
	if !in.Dormant() {
		return time.Time{}, false
	}
	var first time.Time
	if at := in.due.Load(); at != 0 {
		first = epoch.Add(time.Duration(at))
	}
	if at, ok := in.timers.next(in.leader.PID); ok && (first.IsZero() || at.Before(first)) {
		first = at
	}
	return first, !first.IsZero()
}

// timerfds remembers for which unread expirations of timerfds a deadline was given. A service that leaves one unread, and does not
// wait for it in epoll, is activated for it again and again, but more and more rarely.
type timerfds struct {
	mu   sync.Mutex
	told map[int]unread // by descriptor
}

type unread struct {
	ticks uint64
	pause time.Duration // until it is given once more
}

const (
	firstUnread = 2 * time.Millisecond
	lastUnread  = time.Second
)

// next is when the first timerfd of the process expires, or now if one has and nobody has read it.
func (t *timerfds) next(pid int) (first time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names, epolls, err := timedDescriptors(pid)
	if err != nil {
		return first, false // it has ended
	}
	told := map[int]unread{}
	for _, fd := range names {
		now := time.Now()
		info, err := readProc(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd), nil)
		if err != nil {
			continue
		}
		ticks, left := timerfdState(info)
		if ticks > 0 {
			was := t.told[fd]
			u := unread{ticks: ticks}
			if was.ticks == ticks && !anyReady(pid, epolls) {
				u.pause = min(max(2*was.pause, firstUnread), lastUnread)
			}
			told[fd] = u
			if left == 0 || u.pause < left {
				left = max(u.pause, 1)
			}
		}
		if at := now.Add(left); left > 0 && (!ok || at.Before(first)) {
			first, ok = at, true
		}
	}
	t.told = told
	return first, ok
}

// timedDescriptors lists the timerfds and the epoll sets of a process.
func timedDescriptors(pid int) (timers, epolls []int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, gone(pid, err)
	}
	for _, n := range names {
		link, err := os.Readlink(dir + n.Name())
		if err != nil {
			continue // it has been closed
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return nil, nil, err
		}
		switch link {
		case "anon_inode:[timerfd]":
			timers = append(timers, fd)
		case "anon_inode:[eventpoll]":
			epolls = append(epolls, fd)
		}
	}
	return timers, epolls, nil
}

// anyReady reports whether one of the process' epoll sets has an event.
func anyReady(pid int, epolls []int) bool {
	if len(epolls) == 0 {
		return false
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	for _, fd := range epolls {
		own, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != nil {
			continue
		}
		p := [1]unix.PollFd{{Fd: int32(own), Events: unix.POLLIN}}
		n, _ := unix.Poll(p[:], 0) // EINTR: it is asked again
		unix.Close(own)
		if n > 0 {
			return true
		}
	}
	return false
}

// timerfdState reads how often a timerfd has expired unread, and how long it takes until it does next; 0: it does not.
func timerfdState(info []byte) (ticks uint64, left time.Duration) {
	ticks, err := strconv.ParseUint(field(info, "ticks"), 10, 64)
	if err != nil {
		return 0, 0
	}
	sec, nsec, _ := strings.Cut(strings.Trim(field(info, "it_value"), "()"), ",")
	s, err1 := strconv.ParseInt(strings.TrimSpace(sec), 10, 64)
	ns, err2 := strconv.ParseInt(strings.TrimSpace(nsec), 10, 64)
	if err1 != nil || err2 != nil || s > int64(time.Duration(1<<62)/time.Second) {
		return ticks, 0
	}
	return ticks, time.Duration(s)*time.Second + time.Duration(ns)
}
