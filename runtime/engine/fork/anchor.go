package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// tidyPatience is how long the batch that an engine left behind may take.
const tidyPatience = 10 * time.Second

// anchor is the dormant twin that holds a captured or running state: a task outside the instance's pid namespace
// that runs nothing but the stub's agent. An image is an anchor alone. An instance is an anchor and, sharing its
// memory, descriptors and signal handlers, the threads of the service in a pid namespace of their own. So a state
// can be forked at constant namespace depth, and it survives the death of the threads.
type anchor struct {
	process
	arena arena
	side  int  // which control page and agent context are its own
	own   *ctl // for commands
	next  *ctl // the other page, prepared for the next fork; nil if it is not

	// leader is that of the instance whose memory the anchor shares; nil: it is alone. One that has died may have written over what the
	// agent lives by, which then does not answer.
	leader *process

	guarded sync.Mutex // see service.guard

	apart  []region // regions that a fork leaves out unless told otherwise (MADV_DONTFORK)
	limits []byte   // text of its /proc/PID/limits; nil if that is not known
	slack  string   // see timerSlack; "" if that is not known
}

// exec makes the agent run the batch. On success the encoded entries with their results are returned.
func (a *anchor) exec(ctx context.Context, b *batch) ([]byte, error) {
	if len(b.entries) == 0 {
		return nil, nil
	}
	cmd, err := a.start(b)
	if err == nil {
		err = a.own.await(ctx, cmd, a.answers)
	}
	if err == nil {
		err = a.check(b)
	}
	if err != nil {
		return nil, err
	}
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(a.PID, b.at, enc); err != nil {
		return nil, gone(a.PID, err)
	}
	return enc, nil
}

// answers reports whether the agent can be expected to.
func (a *anchor) answers() bool { return a.alive() && (a.leader == nil || a.leader.alive()) }

// start makes the agent run the batch and returns the number of the command, for own.await.
func (a *anchor) start(b *batch) (uint32, error) {
	enc := b.encode()
	if len(enc) > batchSize || len(b.data) > dataSize {
		return 0, fmt.Errorf("batch of %d system calls with %d bytes is too large", len(b.entries), len(b.data))
	}
	var head [16]byte // the context's sequence number stays
	binary.LittleEndian.PutUint64(head[ctxBatch:], b.at)
	binary.LittleEndian.PutUint64(head[ctxN:], uint64(len(b.entries)))
	if err := writePieces(a.PID, piece{b.at, enc}, piece{b.dataAt, b.data}, piece{a.arena.agent(a.side), head[:]}); err != nil {
		return 0, gone(a.PID, err)
	}
	return a.own.command(), nil
}

// check gives the error with which the agent's last batch ended.
func (a *anchor) check(b *batch) error {
	var left [8]byte
	if err := readMem(a.PID, a.arena.agent(a.side)+ctxFailed, left[:]); err != nil {
		return gone(a.PID, err)
	}
	n := binary.LittleEndian.Uint64(left[:])
	if n == 0 {
		return nil
	}
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(a.PID, b.at, enc); err != nil {
		return gone(a.PID, err)
	}
	return b.failure(enc, int(n))
}

// failure names the system call that ended a batch with n entries left.
func (b *batch) failure(enc []byte, n int) error {
	if n > len(b.entries) {
		return errors.New("agent reports nonsense")
	}
	r := ref(len(b.entries) - n + 1)
	e := b.entries[r-1]
	return fmt.Errorf("injected system call %d(%#x, %#x, %#x): %w", e.nr, e.args[0], e.args[1], e.args[2],
		unix.Errno(-result(enc, r)))
}

func (a *anchor) batch() *batch {
	return &batch{at: uint64(a.arena) + offBatch, dataAt: uint64(a.arena) + offData}
}

// getfd duplicates the anchor's descriptor whose number is in its memory at addr.
func (a *anchor) getfd(addr uint64) (int, error) {
	n, err := a.readInt(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.PidfdGetfd(a.pidfd, n, 0)
	if err != nil {
		return -1, gone(a.PID, err)
	}
	return fd, nil
}

func (a *anchor) readInt(addr uint64) (int, error) {
	var b [4]byte
	if err := readMem(a.PID, addr, b[:]); err != nil {
		return 0, gone(a.PID, err)
	}
	return int(int32(binary.LittleEndian.Uint32(b[:]))), nil
}

// discard ends the process and frees what the engine holds of it.
func (a *anchor) discard() error {
	err := a.end()
	a.release()
	return err
}

// release frees what the engine holds; the process lives on.
func (a *anchor) release() {
	a.close()
	// munmap of our own page cannot fail in a way that matters here.
	_ = a.own.close()
	_ = a.next.close()
	a.own, a.next = nil, nil
}

// anchorHandle is an anchor in a handle.
type anchorHandle struct {
	identity
	Arena uint64 `json:"arena"`
	Side  int    `json:"side"`
}

func (a *anchor) handle() anchorHandle { return anchorHandle{a.identity, uint64(a.arena), a.side} }

// open finds the anchor again and sees to it that it obeys.
func (h anchorHandle) open() (*anchor, error) {
	a, err := h.find()
	if err != nil {
		return nil, err
	}
	if err := a.tidy(); err != nil {
		return nil, a.notTidy(err)
	}
	return a, nil
}

// find finds the anchor again. Its control page is reached through /proc/PID/map_files.
func (h anchorHandle) find() (*anchor, error) {
	p, err := h.reopen()
	if err != nil {
		return nil, err
	}
	a := &anchor{process: p, arena: arena(h.Arena), side: h.Side}
	if a.own, err = a.mapCtlOf(h.Side); err != nil {
		a.close()
		return nil, fmt.Errorf("control page of process %d: %w", h.PID, err)
	}
	return a, nil
}

// notTidy ends an anchor that is good for nothing, and releases another.
func (a *anchor) notTidy(err error) error {
	if errors.Is(err, engine.ErrGone) {
		return errors.Join(err, a.discard())
	}
	a.release()
	return err
}

// tidy finishes what an engine that died had begun: the agent comes to the end of its batch by itself, and what the
// next batch would have closed is closed now. The error is ErrGone if the agent does not: the service has written over
// what it lives by, and nothing can be made of this state any more.
func (a *anchor) tidy() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidyPatience)
	defer cancel()
	cmd, done := atomic.LoadUint32(a.own.word(ctlCmd)), atomic.LoadUint32(a.own.word(ctlDone))
	if cmd-done > 1 {
		return fmt.Errorf("process %d: its control page has been written over: %w", a.PID, engine.ErrGone)
	}
	a.own.wake(ctlCmd) // the engine may have died between a command and the wake-up for it
	if err := a.own.await(ctx, cmd, a.alive); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("process %d: its agent does not answer: %w", a.PID, engine.ErrGone)
	} else if err != nil {
		return err
	}
	if freely() && translates() { // nothing is left by engines that can look from outside; what seems so is the service's own
		return nil
	}
	fds, err := leftovers(a.PID)
	if err != nil {
		return err
	}
	b := a.batch()
	for _, fd := range fds {
		b.call(unix.SYS_CLOSE, fd)
	}
	_, err = a.exec(ctx, b)
	return err
}

// leftovers lists the descriptors by which an engine that died had been about to find a process or a control page. The
// threads that share the table may run, so that a descriptor that is listed can be closed already when it is read: that
// does not mean that the process is gone.
func leftovers(pid int) ([]int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, gone(pid, err)
	}
	var fds []int
	for _, n := range names {
		link, err := os.Readlink(dir + "/" + n.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, gone(pid, err)
		}
		if link != ctlLink && link != "anon_inode:[pidfd]" {
			continue
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
