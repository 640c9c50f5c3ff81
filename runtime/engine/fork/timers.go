package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// posixTimer is a timer of timer_create.
type posixTimer struct {
	ID       int      `json:"id"`
	Signal   int      `json:"signal"`
	Value    uint64   `json:"value"` // sigval
	Notify   int      `json:"notify"`
	TID      int      `json:"tid,omitempty"` // SIGEV_THREAD_ID: in the service's pid namespace
	Clock    int      `json:"clock"`
	Left     [2]int64 `json:"left"` // seconds, nanoseconds; 0: it is not armed
	Interval [2]int64 `json:"interval"`
}

// itimerval is struct itimerval: seconds and microseconds of the interval, and those that are left.
type itimerval [4]int64

const (
	sigevSignal   = 0
	sigevNone     = 1
	sigevThread   = 2
	sigevThreadID = 4
)

// object names the timer in a refusal.
func (t *posixTimer) object() string { return fmt.Sprintf("timer %d (POSIX, clock %d)", t.ID, t.Clock) }

// listTimers reads the process' timers file, which does not tell when a timer expires. TID is that of the caller's pid namespace.
func listTimers(files *procFiles) ([]posixTimer, error) {
	pid := files.pid
	text, err := files.read(procTimers, nil)
	if errors.Is(err, fs.ErrNotExist) && !isDead(pid) {
		return nil, nil // a kernel without CONFIG_CHECKPOINT_RESTORE; check.Process says so
	}
	if err != nil {
		return nil, gone(pid, err)
	}
	var out []posixTimer
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if key == "ID" {
			id, err := strconv.Atoi(value)
			if err != nil {
				return nil, fmt.Errorf("/proc/%d/timers: %w", pid, err)
			}
			out = append(out, posixTimer{ID: id})
			continue
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("/proc/%d/timers: begins with %q", pid, line)
		}
		if err := out[len(out)-1].set(key, value); err != nil {
			return nil, fmt.Errorf("/proc/%d/timers: %q: %w", pid, line, err)
		}
	}
	slices.SortFunc(out, func(a, b posixTimer) int { return a.ID - b.ID })
	return out, nil
}

// set takes in "signal: 10/00000000deadbeef", "notify: signal/tid.123" and "ClockID: 1".
func (t *posixTimer) set(key, value string) (err error) {
	switch key {
	case "signal":
		signo, val, _ := strings.Cut(value, "/")
		if t.Signal, err = strconv.Atoi(signo); err == nil {
			t.Value, err = strconv.ParseUint(val, 16, 64)
		}
	case "notify":
		how, whom, _ := strings.Cut(value, "/")
		kind, n, _ := strings.Cut(whom, ".")
		i := slices.Index([]string{sigevSignal: "signal", sigevNone: "none", sigevThread: "thread"}, how)
		if i < 0 {
			return errors.New("unknown notification")
		}
		if t.Notify = i; kind == "tid" {
			t.Notify |= sigevThreadID
			t.TID, err = strconv.Atoi(n)
		}
	case "ClockID":
		t.Clock, err = strconv.Atoi(value)
	}
	return err
}

// Clocks that are as good for one process as for another: those of the host, and CPU time of the process.
var carriedClocks = []int{unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI, unix.CLOCK_PROCESS_CPUTIME_ID, processClock}

// processClock is what the kernel calls CLOCK_PROCESS_CPUTIME_ID of a timer.
const processClock = -6

// mostDummies is how many timers are made and deleted to come to an id, where it cannot be asked for.
const mostDummies = 100

// resolve translates the thread that the timer signals, and refuses a timer that cannot be made anew.
func (t *posixTimer) resolve(tr *tracee, states []threadState) error {
	refuse := func(reason, wayOut string) error {
		return &engine.Refusal{PID: tr.pid, Blockers: []engine.Blocker{{Object: t.object(), Reason: reason, WayOut: wayOut}}}
	}
	if !slices.Contains(carriedClocks, t.Clock) {
		return refuse("its clock belongs to one thread, or wakes the machine", "let the service use CLOCK_MONOTONIC, or a timerfd")
	}
	if t.ID > mostDummies && !choosesTimerIDs() {
		return refuse("a new timer cannot be given so high an id on this kernel (Linux 6.15 can)", "let the service make its timers once, at its start")
	}
	if t.Notify&sigevThreadID == 0 {
		return nil
	}
	for i := range tr.threads {
		th := &tr.threads[i]
		if th.tid == t.TID && slices.ContainsFunc(states, func(s threadState) bool { return s.TID == th.state.TID }) {
			t.TID = th.state.TID
			return nil
		}
	}
	return refuse("the thread that it signals is not there any more", "let the service delete the timer")
}

const prTimerCreateRestoreIDs = 77 // Linux 6.15

// choosesTimerIDs reports whether the kernel lets a timer's id be chosen.
var choosesTimerIDs = sync.OnceValue(func() bool {
	const get = 2
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, prTimerCreateRestoreIDs, get, 0, 0, 0, 0)
	return e == 0
})

// readTimers asks the leader what is left of each timer.
func (g *parkedGroup) readTimers(s *signals) error {
	slot := g.arena.slot(g.t.threads[0].state.Slot)
	for n := -1; n < len(s.Timers); {
		b := &batch{at: slot + slotOwn, dataAt: slot + slotOwnData}
		var at []uint64
		first := n
		if n < 0 {
			for which := range s.Intervals {
				at = append(at, b.reserve(32, 8))
				b.call(unix.SYS_GETITIMER, which, at[which])
			}
			n = 0
		} else {
			for ; n < len(s.Timers) && len(at) < 30; n++ {
				at = append(at, b.reserve(32, 8))
				b.call(unix.SYS_TIMER_GETTIME, s.Timers[n].ID, at[len(at)-1])
			}
		}
		if _, err := g.run(b); err != nil {
			return fmt.Errorf("read timers: %w", err)
		}
		for i, addr := range at {
			var v [32]byte
			if err := readMem(g.t.pid, addr, v[:]); err != nil {
				return gone(g.t.pid, err)
			}
			var w [4]int64
			for j := range w {
				w[j] = int64(binary.LittleEndian.Uint64(v[8*j:]))
			}
			if first < 0 {
				s.Intervals[i] = w
			} else {
				t := &s.Timers[first+i]
				t.Interval, t.Left = [2]int64{w[0], w[1]}, [2]int64{w[2], w[3]}
			}
		}
	}
	return nil
}

// words encodes a struct of 64-bit numbers.
func words(v ...int64) []byte {
	b := make([]byte, 0, 8*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	return b
}

// arm makes the calls that give a new process the timers. tids says where a thread's new id is, if it is not the old one.
// It returns where the new timers' ids will be.
func (s *signals) arm(b *batch, tids map[int]uint64) []uint64 {
	if s == nil {
		return nil
	}
	for which, v := range s.Intervals {
		if v == (itimerval{}) {
			continue
		}
		if v[2] == 0 && v[3] == 0 { // its signal is pending, and was to start it again
			v[2], v[3] = v[0], v[1]
		}
		b.call(unix.SYS_SETITIMER, which, b.put(words(v[:]...), 8), 0)
	}
	if len(s.Timers) == 0 {
		return nil
	}
	choose := choosesTimerIDs()
	if choose {
		b.call(unix.SYS_PRCTL, prTimerCreateRestoreIDs, 1)
	}
	ids := make([]uint64, len(s.Timers))
	next := 0 // the kernel's, if it cannot be chosen
	for i := range s.Timers {
		t := &s.Timers[i]
		event := b.put(t.event(), 8)
		if at, ok := tids[t.TID]; ok && t.Notify&sigevThreadID != 0 {
			b.copyMem(event+16, at, 4)
		}
		ids[i] = b.put(binary.LittleEndian.AppendUint32(nil, uint32(t.ID)), 4)
		for ; !choose && next < t.ID; next++ {
			b.call(unix.SYS_TIMER_CREATE, t.Clock, event, ids[i])
			b.call(unix.SYS_TIMER_DELETE, intAt(ids[i]))
		}
		next = t.ID + 1
		b.call(unix.SYS_TIMER_CREATE, t.Clock, event, ids[i])
		b.call(unix.SYS_TIMER_SETTIME, intAt(ids[i]), 0,
			b.put(words(t.Interval[0], t.Interval[1], t.Left[0], t.Left[1]), 8), 0)
	}
	if choose {
		b.call(unix.SYS_PRCTL, prTimerCreateRestoreIDs, 0)
	}
	return ids
}

// event is struct sigevent.
func (t *posixTimer) event() []byte {
	e := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint64(e, t.Value)
	le.PutUint32(e[8:], uint32(t.Signal))
	le.PutUint32(e[12:], uint32(t.Notify))
	le.PutUint32(e[16:], uint32(t.TID))
	return e
}

// checkIDs asserts that the timers of a new process have the ids that they are known by.
func (s *signals) checkIDs(pid int, ids []uint64) error {
	for i, at := range ids {
		var b [4]byte
		if err := readMem(pid, at, b[:]); err != nil {
			return gone(pid, err)
		}
		if id := int(int32(binary.LittleEndian.Uint32(b[:]))); id != s.Timers[i].ID {
			return fmt.Errorf("a timer with id %d got the id %d", s.Timers[i].ID, id)
		}
	}
	return nil
}
