package fork

import (
	"errors"

	"golang.org/x/sys/unix"
)

// thread is one thread of a service. regs and mask are only valid while it is stopped.
type thread struct {
	tid        int // in the engine's pid namespace
	state      threadState
	regs       regs
	mask       uint64
	known      bool // state is filled in
	broken     bool // it was parked in the middle of a transaction
	unsettled  bool // it was parked with the result of a waiting call that it has yet to act on
	waits      wait // what for, when it was parked
	described  bool // its capture batch has run
	held       bool // seized
	awaited    bool // and stopped
	walked     bool // and at a boundary
	inCall     bool // it was stopped in a system call
	redirected bool // its registers are the stub's
	tiles      bool // it held tiles of AMX when it parked
	noted      bool // it had a signal pending when it parked, or the process an interval timer
	place      place
	putOff     bool      // it is stopped before a call that it was about to make
	timed      timedWait // what it goes on with

	sleep  sleepWait // what it was last seen asleep in
	sleeps bool      // it was when it was last looked at
	unlike uint8     // for how many parkings it is not worth looking
	looker int       // one more than a descriptor of what it does in the kernel; 0: none
}

// threadState is what a new thread needs to become this one, beside its slot in the arena.
type threadState struct {
	TID    int        `json:"tid"` // in the service's pid namespace
	Slot   int        `json:"slot"`
	FSBase uint64     `json:"fs"`
	GSBase uint64     `json:"gs,omitempty"`
	CPUs   string     `json:"cpus,omitempty"` // hexadecimal affinity mask; empty: as the leader's
	Nice   int        `json:"nice,omitempty"`
	Slack  string     `json:"slack,omitempty"` // timer slack in nanoseconds
	Rseq   rseqConfig `json:"rseq"`

	Pending []siginfo `json:"pending,omitempty"` // signals for this thread, in an image
}

// errThreadGone is internal: the thread exited between listing and stop.
var errThreadGone = errors.New("thread is gone")

func (t *tracee) dropDead() {
	n := 0
	for i := range t.threads {
		if t.threads[i].tid == 0 {
			t.threads[i].unlook()
			continue
		}
		if n != i {
			t.threads[n] = t.threads[i]
		}
		n++
	}
	t.threads = t.threads[:n]
}

// list adds threads that are not known yet and reports whether there were any.
func (t *tracee) list() (bool, error) {
	more := false
	t.listed = 0
	if _, err := unix.Seek(int(t.tasks.Fd()), 0, unix.SEEK_SET); err != nil {
		return false, gone(t.pid, err)
	}
	for {
		n, err := unix.Getdents(int(t.tasks.Fd()), t.dirents[:])
		if err != nil {
			return false, gone(t.pid, err)
		}
		if n == 0 {
			return more, nil
		}
		for b := t.dirents[:n]; len(b) > 0; {
			reclen := int(b[16]) | int(b[17])<<8
			if tid := atoiz(b[19:reclen]); tid != 0 {
				t.listed++
				if !t.has(tid) {
					t.threads = append(t.threads, thread{tid: tid})
					more = true
				}
			}
			b = b[reclen:]
		}
	}
}

func (t *tracee) has(tid int) bool {
	for i := range t.threads {
		if t.threads[i].tid == tid {
			return true
		}
	}
	return false
}

// atoiz parses a NUL-terminated decimal; 0 if it is none.
func atoiz(b []byte) int {
	n := 0
	for _, c := range b {
		if c == 0 {
			return n
		}
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
