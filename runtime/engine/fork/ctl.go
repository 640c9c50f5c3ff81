package fork

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// ctl is the engine's view of a control page, the memory that it shares with one family of processes. Writing a
// word and waking its futex is all that it takes to command an agent or to activate an instance.
//
// A service can write to its own page. Nothing in a page is trusted: the worst that it can do is to confuse the
// engine about this one instance.
type ctl struct {
	mem   []byte
	inode uint64 // of the memory's file
}

// mapCtl maps the page behind the memfd and takes no ownership of fd.
func mapCtl(fd int) (*ctl, error) {
	mem, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map control page: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("control page: %w", err), unix.Munmap(mem))
	}
	return &ctl{mem, st.Ino}, nil
}

func (c *ctl) close() error {
	if c == nil || c.mem == nil {
		return nil
	}
	mem := c.mem
	c.mem = nil
	return unix.Munmap(mem)
}

func (c *ctl) word(off int) *uint32 { return (*uint32)(unsafe.Pointer(&c.mem[off])) }

const (
	futexWait = 0
	futexWake = 1
)

// wake wakes all waiters on the word. It is on the transaction path.
func (c *ctl) wake(off int) {
	// FUTEX_WAKE on our own mapping has no failure that a caller could act on.
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(c.word(off))), futexWake, 1<<30, 0, 0, 0)
}

func (c *ctl) setRun(v uint32) {
	atomic.StoreUint32(c.word(ctlRun), v)
	if v == runGo {
		c.wake(ctlRun)
	}
}

// command makes the agent behind the page run its batch and returns the number of the command.
func (c *ctl) command() uint32 {
	cmd := atomic.AddUint32(c.word(ctlCmd), 1)
	c.wake(ctlCmd)
	return cmd
}

// spins is how long await looks before it sleeps. A sleeper that is woken on an idle CPU takes longer to get going than most
// batches do.
const spins = 20 * time.Microsecond

// lookAlive is how long await goes without asking whether an answer can still come.
const lookAlive = 50 * time.Millisecond

// await waits until the agent has finished command number cmd.
// A nil ctx.Done is not supported: a dead agent is only noticed through alive or ctx.
func (c *ctl) await(ctx context.Context, cmd uint32, alive func() bool) error {
	word := c.word(ctlDone)
	for until := time.Now().Add(spins); ; {
		for range 64 {
			if atomic.LoadUint32(word) == cmd {
				return nil
			}
			pause()
		}
		if time.Now().After(until) {
			break
		}
	}
	ts := unix.NsecToTimespec(int64(lookAlive))
	for look := time.Now().Add(lookAlive); ; {
		done := atomic.LoadUint32(word)
		if done == cmd {
			return nil
		}
		_, _, e := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(done),
			uintptr(unsafe.Pointer(&ts)), 0, 0)
		if e != 0 && !errors.Is(e, unix.EAGAIN) && !errors.Is(e, unix.EINTR) && !errors.Is(e, unix.ETIMEDOUT) {
			return fmt.Errorf("wait for agent: %w", e)
		}
		// By the clock, not by the time-out: an agent whose page an instance has written over may wake us without end.
		now := time.Now()
		if now.Before(look) {
			continue
		}
		if !alive() {
			return fmt.Errorf("agent: %w", engine.ErrGone)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("agent does not answer: %w", err)
		}
		look = now.Add(lookAlive)
	}
}

// idle reports whether the agent has finished command number cmd.
func (c *ctl) idle(cmd uint32) bool { return atomic.LoadUint32(c.word(ctlDone)) == cmd }

// reset prepares the page for an agent that has not started: it reports its first batch as command first.
func (c *ctl) reset(first uint32) {
	atomic.StoreUint32(c.word(ctlDone), 0)
	atomic.StoreUint32(c.word(ctlRun), runParked)
	atomic.StoreUint32(c.word(ctlCmd), first)
}

func (c *ctl) running() bool { return atomic.LoadUint32(c.word(ctlRun)) == runGo }

// probation makes an agent that has not started end by itself after its context's limit, until it is over.
func (c *ctl) probation(on bool) {
	v := uint32(0)
	if on {
		v = 1
	}
	atomic.StoreUint32(c.word(ctlTerm), v)
}
