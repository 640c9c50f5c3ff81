package fork

import (
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A thread that waits on a private futex without a timeout can be woken by its own process alone. As long as no other thread
// of that runs it is as good as parked, and is left where it is: stopping and waking it would cost more than all the
// rest. Only a checkpoint, which needs a frame of every thread, has to fetch it.

// place says where a thread of a dormant instance is.
type place uint8

const (
	placeOther  place = iota // stopped, or about to be
	placeAsleep              // in the kernel, in a wait that only its process can end
	placeStub
)

// sleepWait is such a wait: it goes on sleeping for certain as long as the word has the value.
type sleepWait struct {
	word uint64
	val  uint32
}

const (
	// lookAgain is for how many parkings a thread that waited for something else is not looked at.
	lookAgain = 15
	// maxLooks bounds the descriptors that are kept for looking, beside the share of RLIMIT_NOFILE.
	maxLooks = 1 << 16
)

// looks is how many descriptors are kept.
var looks atomic.Int64

// looksAllowed is how many may be kept.
var looksAllowed = sync.OnceValue(func() int64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int64(min(l.Cur/5, maxLooks))
})

// spareSleepers marks the threads that need not be stopped as far as can be told now; still looks again.
func (t *tracee) spareSleepers() {
	for i := range t.threads {
		th := &t.threads[i]
		th.place = placeOther
		switch {
		case t.whole || len(t.threads) == 1:
		case th.sleeps:
			th.place = placeAsleep
		case th.unlike > 0:
			th.unlike--
		case t.look(th):
			th.place = placeAsleep
		}
	}
}

// still reports whether nothing of the process can run: all threads are stopped, in the stub, or in a wait that only one
// of them could end. Those that were spared and turn out to be awake, and new ones, are to be stopped then.
func (t *tracee) still() (bool, error) {
	spared := false
	for i := range t.threads {
		spared = spared || t.threads[i].place == placeAsleep
	}
	if !spared {
		more, err := t.news()
		return !more, err
	}
	// One that is seen asleep may have been woken since by one that is seen asleep later. None has if nobody has used any
	// time meanwhile.
	before, timed, awake := int64(0), false, false
	look := !t.brief || t.sleepersRan()
	if look {
		before, timed = t.cpuTime()
		awake = t.lookAtSleepers()
	}
	if t.sleepersWoken() {
		awake = true
	}
	more, err := t.news()
	if err != nil || awake || more {
		return false, err
	}
	if !look {
		return true, nil
	}
	if after, ok := t.cpuTime(); timed && ok && after == before {
		t.noteOthers(after)
		return true, nil
	}
	for i := range t.threads {
		if th := &t.threads[i]; th.place == placeAsleep {
			th.place = placeOther
		}
	}
	return false, nil
}

// sleepersRan reports whether a thread that is not stopped may have used any time since all of them were last seen asleep. One that
// has been woken and has yet to run has not: the word tells of most of those, and a look at each of all.
func (t *tracee) sleepersRan() bool {
	all, timed := t.cpuTime()
	own, ok := t.stoppedTime()
	return !timed || !ok || t.others == 0 || all-own != t.others
}

// noteOthers notes what the threads that are asleep have used of the time all.
func (t *tracee) noteOthers(all int64) {
	t.others = 0
	if own, ok := t.stoppedTime(); ok {
		t.others = all - own
	}
}

// stoppedTime is the CPU time of the only thread that is stopped. false: there are others.
func (t *tracee) stoppedTime() (int64, bool) {
	var th *thread
	for i := range t.threads {
		if !t.threads[i].held {
			continue
		}
		if th != nil {
			return 0, false
		}
		th = &t.threads[i]
	}
	if th == nil || !t.openTime(th.tid) {
		return 0, false
	}
	n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(t.timeFD), uintptr(unsafe.Pointer(&t.dirents[0])), 64, 0, 0, 0)
	ns := int64(0)
	for i := range int(n) {
		if e != 0 || t.dirents[i] < '0' || t.dirents[i] > '9' {
			break
		}
		ns = 10*ns + int64(t.dirents[i]-'0')
	}
	return ns, e == 0 && ns > 0
}

// openTime makes t.timeFD tell the time of that thread, and reports whether it does.
func (t *tracee) openTime(tid int) bool {
	if t.timeOf == tid {
		return true
	}
	t.closeTime()
	var b [32]byte
	name := append(strconv.AppendInt(b[:0], int64(tid), 10), "/schedstat\x00"...)
	r, _, e := unix.RawSyscall6(unix.SYS_OPENAT, t.tasks.Fd(), uintptr(unsafe.Pointer(&name[0])),
		unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		return false
	}
	if looks.Add(1) > looksAllowed() {
		looks.Add(-1)
		unix.Close(int(r))
		return false
	}
	t.timeFD, t.timeOf = int(r), tid
	return true
}

func (t *tracee) closeTime() {
	if t.timeOf != 0 {
		unix.Close(t.timeFD)
		looks.Add(-1)
		t.timeOf = 0
	}
}

// lookAtSleepers reports whether one that was spared is not asleep.
func (t *tracee) lookAtSleepers() bool {
	awake := false
	for i := range t.threads {
		if th := &t.threads[i]; th.place == placeAsleep && !t.look(th) {
			th.place, awake = placeOther, true
		}
	}
	return awake
}

// sleepersWoken reports whether the word of one that was spared does not have the value any more. Mostly that means that it is
// about to be woken; and a thread that has blocked on its way into the wait, for memory, would not begin it.
func (t *tracee) sleepersWoken() bool {
	sc := parkPool.Get().(*parkScratch)
	defer parkPool.Put(sc)
	sc.growWords(len(t.threads))
	n := 0
	for i := range t.threads {
		if th := &t.threads[i]; th.place == placeAsleep {
			sc.remote[n] = unix.RemoteIovec{Base: uintptr(th.sleep.word), Len: 4}
			n++
		}
	}
	got := 0
	for at := 0; at < n; {
		m := min(n-at, 1000) // IOV_MAX is 1024
		local := unix.Iovec{Base: (*byte)(unsafe.Pointer(&sc.words[at])), Len: uint64(4 * m)}
		r, _, e := unix.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(t.pid), uintptr(unsafe.Pointer(&local)), 1,
			uintptr(unsafe.Pointer(&sc.remote[at])), uintptr(m), 0)
		if e != 0 {
			break
		}
		got, at = at+int(r)/4, at+m
		if int(r) != 4*m {
			break
		}
	}
	awake := false
	n = 0
	for i := range t.threads {
		if th := &t.threads[i]; th.place == placeAsleep {
			if n >= got || sc.words[n] != th.sleep.val {
				th.place, awake = placeOther, true
			}
			n++
		}
	}
	return awake
}

// cpuTime is the time that all threads of the process, dead ones included, have used, in nanoseconds.
func (t *tracee) cpuTime() (int64, bool) {
	const sched = 2 // CPUCLOCK_SCHED: exact, not in ticks
	var ts unix.Timespec
	_, _, e := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, uintptr(uint32(int32(^t.pid<<3|sched))), uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano(), e == 0
}

// look reports whether a thread that is not stopped is asleep in a wait that only its process can end.
func (t *tracee) look(th *thread) bool {
	th.sleeps = false
	n := t.readCall(th)
	var v [9]uint64
	if n <= 0 || !parseCall(t.dirents[:n], &v) {
		return false // it runs, or has ended
	}
	if t.arena.inStub(v[8]) {
		return false
	}
	th.sleep, th.sleeps = privateSleep(&v)
	if !th.sleeps {
		th.unlike = lookAgain
		return false
	}
	th.broken, th.unsettled, th.waits = false, false, wait{}
	return true
}

// privateSleep tells whether the call is a wait on a private futex without a timeout.
func privateSleep(v *[9]uint64) (sleepWait, bool) {
	const private, realtime, bitset = 128, 256, 9
	if v[0] != unix.SYS_FUTEX || v[4] != 0 {
		return sleepWait{}, false
	}
	if op := v[2] &^ realtime; op != private|futexWait && op != private|bitset {
		return sleepWait{}, false
	}
	return sleepWait{v[1], uint32(v[3])}, true
}

// parseCall reads the text of /proc/PID/task/TID/syscall of a thread that sleeps: the call's number, its arguments, the stack
// pointer and the instruction pointer. false: it does not sleep in a system call.
func parseCall(b []byte, v *[9]uint64) bool {
	if len(b) == 0 || b[0] < '0' || b[0] > '9' {
		return false
	}
	i, x, base := 0, uint64(0), uint64(10)
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			x = x*base + uint64(c-'0')
		case c >= 'a' && c <= 'f':
			x = x*base + uint64(c-'a'+10)
		case c == 'x':
			x, base = 0, 16
		default:
			if v[i] = x; i == len(v)-1 {
				return true
			}
			i, x, base = i+1, 0, 10
		}
	}
	return false
}

// readCall reads the text into t.dirents and returns its length. The descriptor is kept if there are not too many.
func (t *tracee) readCall(th *thread) int {
	fd := th.looker - 1
	if fd < 0 {
		var b [32]byte
		name := append(strconv.AppendInt(b[:0], int64(th.tid), 10), "/syscall\x00"...)
		r, _, e := unix.RawSyscall6(unix.SYS_OPENAT, t.tasks.Fd(), uintptr(unsafe.Pointer(&name[0])),
			unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if e != 0 {
			return -1
		}
		if fd = int(r); looks.Add(1) <= looksAllowed() {
			th.looker = fd + 1
		} else {
			looks.Add(-1)
			defer unix.Close(fd)
		}
	}
	n, _, e := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&t.dirents[0])), 256, 0, 0, 0)
	if e != 0 {
		return -1
	}
	return int(n)
}

// unlook closes the thread's descriptor.
func (th *thread) unlook() {
	if th.looker > 0 {
		unix.Close(th.looker - 1)
		looks.Add(-1)
		th.looker = 0
	}
}

// news adds threads that are not known yet and reports whether there were any. No thread that is known may be able to end.
func (t *tracee) news() (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.tasks.Fd()), &st); err != nil {
		return false, gone(t.pid, err)
	}
	// The directory has a link for each thread, and some: counting them is much cheaper than listing.
	if t.links != 0 && int(st.Nlink)-t.links == len(t.threads) {
		return false, nil
	}
	more, err := t.list()
	if err == nil && !more && t.listed == len(t.threads) && int(st.Nlink) > len(t.threads) {
		t.links = int(st.Nlink) - len(t.threads)
	}
	return more, err
}

// stopSleepers stops the threads of a dormant instance that are not in the stub.
func (t *tracee) stopSleepers() error {
	for i := range t.threads {
		if th := &t.threads[i]; th.place == placeAsleep {
			th.place = placeOther
		}
	}
	return t.stopOthers(0)
}

// stopParked stops the threads of a process that are all in the stub, to which they come back when they are released.
func (t *tracee) stopParked() error {
	for i := range t.threads {
		t.threads[i].place = placeOther
	}
	err := t.stopAnywhere()
	for i := range t.threads {
		t.threads[i].place = placeStub
	}
	return err
}

// inStub reports whether all threads of a dormant instance are in the stub.
func (t *tracee) inStub() bool {
	for i := range t.threads {
		if t.threads[i].place != placeStub {
			return false
		}
	}
	return true
}
