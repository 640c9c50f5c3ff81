package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

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
}

// exec makes the agent run the batch. On success the encoded entries with their results are returned.
func (a *anchor) exec(ctx context.Context, b *batch) ([]byte, error) {
	if len(b.entries) == 0 {
		return nil, nil
	}
	if err := a.load(b, a.side); err != nil {
		return nil, err
	}
	if err := a.own.command(ctx, a.alive); err != nil {
		return nil, err
	}
	return a.results(b)
}

// load writes the batch and points the agent context of the side to it. The context's sequence number stays.
func (a *anchor) load(b *batch, side int) error {
	enc := b.encode()
	if len(enc) > batchSize || len(b.data) > dataSize {
		return fmt.Errorf("batch of %d system calls with %d bytes is too large", len(b.entries), len(b.data))
	}
	if err := writeMem(a.PID, b.at, enc); err != nil {
		return gone(a.PID, err)
	}
	if err := writeMem(a.PID, b.dataAt, b.data); err != nil {
		return gone(a.PID, err)
	}
	var head [16]byte
	binary.LittleEndian.PutUint64(head[ctxBatch:], b.at)
	binary.LittleEndian.PutUint64(head[ctxN:], uint64(len(b.entries)))
	return gone(a.PID, writeMem(a.PID, a.arena.agent(side), head[:]))
}

// results reads back what the agent's last batch gave.
func (a *anchor) results(b *batch) ([]byte, error) {
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(a.PID, b.at, enc); err != nil {
		return nil, gone(a.PID, err)
	}
	var left [8]byte
	if err := readMem(a.PID, a.arena.agent(a.side)+ctxFailed, left[:]); err != nil {
		return nil, gone(a.PID, err)
	}
	if n := binary.LittleEndian.Uint64(left[:]); n != 0 {
		return nil, b.failure(enc, int(n))
	}
	return enc, nil
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

// prepare makes the control page that the next fork's child will have. It is not needed while the service is
// stopped, so it is done ahead.
func (a *anchor) prepare(ctx context.Context) error {
	if a.next != nil {
		return nil
	}
	b := a.batch()
	name := b.putString("corsa")
	r := b.call(unix.SYS_MEMFD_CREATE, name, unix.MFD_CLOEXEC)
	b.call(unix.SYS_FTRUNCATE, r, pageSize)
	enc, err := a.exec(ctx, b)
	if err != nil {
		return fmt.Errorf("control page: %w", err)
	}
	n := int(result(enc, r))
	fd, err := unix.PidfdGetfd(a.pidfd, n, 0)
	if err != nil {
		return fmt.Errorf("control page: %w", gone(a.PID, err))
	}
	defer unix.Close(fd)
	page, err := mapCtl(fd)
	if err != nil {
		return err
	}
	b = a.batch()
	b.call(unix.SYS_MMAP, a.arena.ctl(1-a.side), pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED, n, 0)
	b.call(unix.SYS_CLOSE, n)
	if _, err := a.exec(ctx, b); err != nil {
		return errors.Join(fmt.Errorf("control page: %w", err), page.close())
	}
	a.next = page
	return nil
}

// forkBatch is what fork's caller wants the child to do first, before anything else runs. dropParent has been
// queued already.
type forkBatch func(child *batch)

// fork duplicates the anchor. The child is an anchor in its own right; it has carried out first and waits.
func (a *anchor) fork(ctx context.Context, first forkBatch) (*anchor, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	b, child, pidfdAt := a.forkEntries(a.side, first)
	if err := a.loadChild(child, 1-a.side); err != nil {
		return nil, err
	}
	page := a.next
	page.reset(1)
	if _, err := a.exec(ctx, b); err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	a.next = nil // it is the child's now
	c, err := a.adoptChild(ctx, page, pidfdAt)
	if err != nil {
		return nil, errors.Join(err, page.close())
	}
	b = a.batch()
	b.dataAt += 64 // keep the number that is about to be closed
	b.call(unix.SYS_CLOSE, intAt(pidfdAt))
	if _, err := a.exec(ctx, b); err != nil {
		return nil, errors.Join(fmt.Errorf("fork: %w", err), c.discard())
	}
	if err := page.await(ctx, 1, c.alive); err != nil {
		return nil, errors.Join(fmt.Errorf("fork: child: %w", err), c.discard())
	}
	if _, err := c.results(child); err != nil {
		return nil, errors.Join(fmt.Errorf("fork: child: %w", err), c.discard())
	}
	return c, nil
}

// forkEntries makes the batch of a fork by the context of the side, and that of its child. The number of the
// child's pidfd is left at pidfdAt.
func (a *anchor) forkEntries(side int, first forkBatch) (parent, child *batch, pidfdAt uint64) {
	parent = a.batch()
	pidfdAt = parent.reserve(8, 8)
	parent.clone(cloneArgs{flags: unix.CLONE_PARENT | unix.CLONE_PIDFD, pidfd: pidfdAt}, a.arena.agent(1-side))
	// The child's batch lies behind the parent's, in the same memory until the fork.
	child = &batch{at: parent.at + 8*entrySize, dataAt: parent.dataAt + 4096}
	child.call(unix.SYS_MMAP, a.arena.ctl(side), pageSize, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE, -1, 0)
	if first != nil {
		first(child)
	}
	return parent, child, pidfdAt
}

// loadChild writes the child's batch and its whole context, before the fork.
func (a *anchor) loadChild(child *batch, side int) error {
	enc := child.encode()
	if len(enc) > batchSize-8*entrySize || len(child.data) > dataSize-4096 {
		return fmt.Errorf("batch of %d system calls is too large", len(child.entries))
	}
	head := make([]byte, ctxSize)
	stubContext{batch: child.at, n: len(child.entries), kind: kindAgent, ctl: a.arena.ctl(side), limitS: provisional}.put(head)
	return gone(a.PID, errors.Join(
		writeMem(a.PID, child.at, enc),
		writeMem(a.PID, child.dataAt, child.data),
		writeMem(a.PID, a.arena.agent(side), head)))
}

// adoptChild makes an anchor of the child whose pidfd is at pidfdAt in this process.
func (a *anchor) adoptChild(_ context.Context, page *ctl, pidfdAt uint64) (*anchor, error) {
	fd, err := a.getfd(pidfdAt)
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	p, err := openProcess(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("fork: %w", err)
	}
	return &anchor{process: p, arena: a.arena, side: 1 - a.side, own: page}, nil
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

// open finds the anchor again. Its control page is reached through /proc/PID/map_files.
func (h anchorHandle) open() (*anchor, error) {
	p, err := h.reopen()
	if err != nil {
		return nil, err
	}
	a := &anchor{process: p, arena: arena(h.Arena), side: h.Side}
	at := a.arena.ctl(h.Side)
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", h.PID, at, at+pageSize), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		a.close()
		return nil, fmt.Errorf("control page of process %d: %w", h.PID, err)
	}
	defer unix.Close(fd)
	if a.own, err = mapCtl(fd); err != nil {
		a.close()
		return nil, err
	}
	if err := a.tidy(); err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

// tidy finishes what an engine that died had begun: the agent comes to the end of its batch by itself, and what the
// next batch would have closed is closed now.
func (a *anchor) tidy() error {
	ctx, cancel := context.WithTimeout(context.Background(), opPatience)
	defer cancel()
	if err := a.own.await(ctx, atomic.LoadUint32(a.own.word(ctlCmd)), a.alive); err != nil {
		return err
	}
	dir := fmt.Sprintf("/proc/%d/fd", a.PID)
	names, err := os.ReadDir(dir)
	if err != nil {
		return gone(a.PID, err)
	}
	b := a.batch()
	for _, n := range names {
		link, err := os.Readlink(dir + "/" + n.Name())
		if err != nil {
			return gone(a.PID, err)
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return err
		}
		if link == "/memfd:corsa (deleted)" || link == "anon_inode:[pidfd]" {
			b.call(unix.SYS_CLOSE, fd)
		}
	}
	_, err = a.exec(ctx, b)
	return err
}

// placeholders makes the child of a fork put something harmless in the place of descriptors that it must not
// share with its parent; their numbers stay taken.
func placeholders(fds []int) forkBatch {
	return func(b *batch) {
		if len(fds) == 0 {
			return
		}
		root := b.putString("/")
		r := b.call(unix.SYS_OPEN, root, unix.O_PATH|unix.O_CLOEXEC, 0)
		for _, fd := range fds {
			b.call(unix.SYS_DUP3, r, fd, unix.O_CLOEXEC)
		}
		b.call(unix.SYS_CLOSE, r)
	}
}

// unshareMappings makes the child of a fork replace shared anonymous mappings by copies of its own. The parent must
// not run before that is done.
func unshareMappings(maps []mapping) forkBatch {
	return func(b *batch) {
		for _, m := range maps {
			n := m.End - m.Start
			r := b.call(unix.SYS_MMAP, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS, -1, 0)
			if m.Perms[0] != 'r' {
				b.call(unix.SYS_MPROTECT, m.Start, n, unix.PROT_READ)
			}
			b.copyMem(r, m.Start, n)
			b.call(unix.SYS_MPROTECT, r, n, protection(m.Perms))
			b.call(unix.SYS_MREMAP, r, n, n, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, m.Start)
		}
	}
}

func protection(perms string) int {
	p := 0
	for i, bit := range []int{unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC} {
		if perms[i] != '-' {
			p |= bit
		}
	}
	return p
}
