package fork

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forkBatch is what a fork's child does first, before anything else runs.
type forkBatch func(child *batch)

// duplication is a fork of an anchor that is under way.
type duplication struct {
	a             *anchor
	page          *ctl // the child's
	parent, child *batch
	pidfdAt       uint64 // where the anchor leaves the number of the child's pidfd; 0: there is none
	cmd           uint32
	pidfd         int // ours
}

// fork duplicates the anchor. The child is an anchor in its own right; it has carried out first and waits.
func (a *anchor) fork(ctx context.Context, first forkBatch) (*anchor, error) {
	d, err := a.duplicate(ctx, first)
	if err == nil {
		err = d.await(ctx)
	}
	if err != nil {
		return nil, err
	}
	return d.anchor(ctx)
}

// duplicate lets the anchor fork and does not wait for it. What is left is to call await and, unless that fails,
// anchor.
func (a *anchor) duplicate(ctx context.Context, first forkBatch) (*duplication, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	d := &duplication{a: a, page: a.next, pidfd: -1}
	d.parent, d.child, d.pidfdAt = a.forkEntries(a.side, first, !translates())
	if err := a.loadChild(d.child, 1-a.side); err != nil {
		return nil, err
	}
	d.page.reset(1)
	var err error
	if d.cmd, err = a.start(d.parent); err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	return d, nil
}

// await waits until the child has come to the end of first. The anchor's descriptors are what they were, also after an
// error.
func (d *duplication) await(ctx context.Context) error {
	a := d.a
	var err error
	if d.pidfdAt == 0 {
		// The child comes last. Only if it does not come at all is there something to be learnt from the anchor.
		if err = d.page.await(ctx, 1, d.expected); err == nil {
			return nil
		}
	}
	if e := a.own.await(ctx, d.cmd, a.alive); e != nil {
		return fmt.Errorf("fork: %w", errors.Join(e, err))
	}
	if e := a.check(d.parent); e != nil { // what comes behind the clone was not done
		b := a.batch()
		a.apartAs(b, unix.MADV_DONTFORK)
		_, err := a.exec(ctx, b)
		return fmt.Errorf("fork: %w", errors.Join(e, err))
	}
	a.next = nil // it is the child's now
	if err == nil {
		err = d.takePidfd(ctx)
	}
	if err != nil {
		return fmt.Errorf("fork: %w", errors.Join(err, d.abandon()))
	}
	return nil
}

// abandon ends a child that has not come to the end of its batch.
func (d *duplication) abandon() error {
	err := d.page.close()
	if d.pidfd < 0 && d.pidfdAt == 0 {
		var e error
		if d.pidfd, e = d.a.openChild(d.parent, d.page); e != nil {
			return errors.Join(err, e)
		}
	}
	if d.pidfd < 0 {
		return err
	}
	p, e := openProcess(d.pidfd)
	if e == nil {
		e = p.end()
	}
	unix.Close(d.pidfd)
	return errors.Join(err, e)
}

// expected reports whether the child may still come.
func (d *duplication) expected() bool {
	return d.a.alive() && (!d.a.own.idle(d.cmd) || d.a.check(d.parent) == nil)
}

// takePidfd fetches the child's pidfd and closes the anchor's while the child is at its own work.
func (d *duplication) takePidfd(ctx context.Context) error {
	n, err := d.a.readInt(d.pidfdAt)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdGetfd(d.a.pidfd, n, 0)
	if err != nil {
		return gone(d.a.PID, err)
	}
	d.pidfd = fd
	b := d.a.batch()
	b.call(unix.SYS_CLOSE, n)
	if _, err = d.a.exec(ctx, b); err == nil {
		err = d.page.await(ctx, 1, process{pidfd: d.pidfd}.alive)
	}
	return err
}

// anchor makes an anchor of the child. Neither the anchor's nor the child's descriptors are touched.
func (d *duplication) anchor(ctx context.Context) (*anchor, error) {
	a := d.a
	if d.pidfdAt == 0 {
		if err := a.own.await(ctx, d.cmd, a.alive); err != nil {
			return nil, fmt.Errorf("fork: %w", err)
		}
		a.next = nil // it is the child's now
		var err error
		if d.pidfd, err = a.openChild(d.parent, d.page); err != nil {
			return nil, fmt.Errorf("fork: %w", errors.Join(err, d.page.close()))
		}
	}
	p, err := openProcess(d.pidfd)
	if err != nil {
		unix.Close(d.pidfd)
		return nil, fmt.Errorf("fork: %w", errors.Join(err, d.page.close()))
	}
	c := &anchor{process: p, arena: a.arena, side: 1 - a.side, own: d.page, limits: a.limits, slack: a.timerSlack()}
	if err := c.check(d.child); err != nil {
		return nil, errors.Join(fmt.Errorf("fork: child: %w", err), c.discard())
	}
	return c, nil
}

// openChild opens the process that the clone of batch b has made. page is its control
// page: a process that has got the pid of a child that died does not have it.
func (a *anchor) openChild(b *batch, page *ctl) (int, error) {
	enc := make([]byte, entrySize)
	if err := readMem(a.PID, b.at+uint64(b.cloned()-1)*entrySize, enc); err != nil {
		return -1, gone(a.PID, err)
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", a.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, gone(a.PID, err)
	}
	defer unix.Close(ns)
	pid, err := translate(ns, int(result(enc, 1)))
	if err != nil {
		return -1, fmt.Errorf("child %d of process %d: %w", result(enc, 1), a.PID, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, gone(pid, err)
	}
	if freely() {
		at := a.arena.ctl(1 - a.side)
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, at, at+pageSize), &st)
		if err == nil && st.Ino != page.inode {
			err = unix.ESRCH
		}
		if err != nil {
			unix.Close(fd)
			return -1, gone(pid, err)
		}
	}
	return fd, nil
}

// translate returns the pid here of the process that is pid in namespace ns.
func translate(ns, pid int) (int, error) {
	const nsGetPIDFromPIDNS = 0x8004b706 // Linux 6.12
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(ns), nsGetPIDFromPIDNS, uintptr(pid))
	if e != 0 {
		return 0, gone(pid, e)
	}
	return int(n), nil
}

// translates reports whether the kernel can do that. If not, a child is found by a pidfd, which is in the service's
// descriptor table for a moment.
var translates = sync.OnceValue(func() bool {
	ns, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(ns)
	pid, err := translate(ns, os.Getpid())
	return err == nil && pid == os.Getpid()
})

// forkEntries makes the batch of a fork by the context of the side, and that of its child. With byFD, the number of
// the child's pidfd is left at pidfdAt.
func (a *anchor) forkEntries(side int, first forkBatch, byFD bool) (parent, child *batch, pidfdAt uint64) {
	parent = a.batch()
	args := cloneArgs{flags: unix.CLONE_PARENT}
	if byFD {
		pidfdAt = parent.reserve(8, 8)
		args.flags, args.pidfd = args.flags|unix.CLONE_PIDFD, pidfdAt
	}
	a.apartAs(parent, unix.MADV_DOFORK)
	parent.clone(args, a.arena.agent(1-side))
	a.apartAs(parent, unix.MADV_DONTFORK)
	// The child's page is the child's alone: what the service writes over by mistake must not concern a checkpoint.
	parent.call(unix.SYS_MMAP, a.arena.ctl(1-side), pageSize, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE, -1, 0)
	// The child's batch lies behind the parent's, in the same memory until the fork.
	child = &batch{at: parent.at + uint64(len(parent.entries)+6)*entrySize, dataAt: parent.dataAt + 4096}
	child.call(unix.SYS_MMAP, a.arena.ctl(side), pageSize, unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE, -1, 0)
	if first != nil {
		first(child)
	}
	return parent, child, pidfdAt
}

// apartAs marks the regions that forks leave out. They may be gone.
func (a *anchor) apartAs(b *batch, how int) {
	for _, s := range a.apart {
		b.try(unix.SYS_MADVISE, s.Start, s.End-s.Start, how)
	}
}

// cloned is the first entry that clones.
func (b *batch) cloned() ref {
	for i := range b.entries {
		if b.entries[i].kind == entryClone {
			return ref(i + 1)
		}
	}
	panic("fork: a batch without a clone")
}

// loadChild writes the child's batch and its whole context, before the fork.
func (a *anchor) loadChild(child *batch, side int) error {
	enc := child.encode()
	if child.at+uint64(len(enc)) > uint64(a.arena)+offData || len(child.data) > dataSize-4096 {
		return fmt.Errorf("batch of %d system calls is too large", len(child.entries))
	}
	head := make([]byte, ctxSize)
	stubContext{batch: child.at, n: len(child.entries), kind: kindAgent, ctl: a.arena.ctl(side), limitS: provisional}.put(head)
	return gone(a.PID, writePieces(a.PID, piece{child.at, enc}, piece{child.dataAt, child.data}, piece{a.arena.agent(side), head}))
}

// prepare makes the control page that the next fork's child will have, ahead of time. If it can be found without a
// descriptor in the service, which is what freely says, the service's threads may run meanwhile. slots are those of
// threads that will be parked before.
func (a *anchor) prepare(ctx context.Context, slots ...int) error {
	if a.next != nil {
		return nil
	}
	var err error
	if freely() {
		err = a.prepareFreely(ctx, slots)
	} else {
		err = a.prepareByFD(ctx)
	}
	if err != nil {
		return fmt.Errorf("control page: %w", err)
	}
	return nil
}

// freely reports whether mappings of other processes can be opened: it takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
var freely = sync.OnceValue(func() bool {
	mem, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(mem) }()
	at := uint64(uintptr(unsafe.Pointer(&mem[0])))
	fd, err := unix.Open(fmt.Sprintf("/proc/self/map_files/%x-%x", at, at+pageSize), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
})

// prepareFreely also takes the faults that a fork leaves behind on what the next parking and fork write to: then is no
// time for that.
func (a *anchor) prepareFreely(ctx context.Context, slots []int) error {
	b := a.batch()
	b.call(unix.SYS_MMAP, a.arena.ctl(1-a.side), pageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_FIXED, -1, 0)
	b.try(unix.SYS_MADVISE, a.arena.agent(0), 2*pageSize, unix.MADV_POPULATE_WRITE)
	b.try(unix.SYS_MADVISE, b.dataAt, 2*pageSize, unix.MADV_POPULATE_WRITE)
	for _, slot := range slots[:min(len(slots), manySlots)] {
		b.try(unix.SYS_MADVISE, a.arena.slot(slot), 2*pageSize, unix.MADV_POPULATE_WRITE)
	}
	if _, err := a.exec(ctx, b); err != nil {
		return err
	}
	var err error
	a.next, err = a.mapCtlOf(1 - a.side)
	return err
}

// manySlots is for how many threads faults are taken ahead.
const manySlots = 64

// mapCtlOf maps a control page of the anchor's here.
func (a *anchor) mapCtlOf(side int) (*ctl, error) {
	at := a.arena.ctl(side)
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", a.PID, at, at+pageSize), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, gone(a.PID, err)
	}
	defer unix.Close(fd)
	return mapCtl(fd)
}

func (a *anchor) prepareByFD(ctx context.Context) error {
	b := a.batch()
	name := b.putString("corsa")
	r := b.call(unix.SYS_MEMFD_CREATE, name, unix.MFD_CLOEXEC)
	b.call(unix.SYS_FTRUNCATE, r, pageSize)
	enc, err := a.exec(ctx, b)
	if err != nil {
		return err
	}
	n := int(result(enc, r))
	fd, err := unix.PidfdGetfd(a.pidfd, n, 0)
	if err != nil {
		return gone(a.PID, err)
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
		return errors.Join(err, page.close())
	}
	a.next = page
	return nil
}

// placeholders makes the child of a fork put something harmless in the place of descriptors that it must not
// share with its parent; their numbers stay taken. The parent must not run before that is done: what it closed would
// live on in epoll sets.
func placeholders(fds []int) forkBatch {
	return func(b *batch) {
		if len(fds) == 0 {
			return
		}
		root := b.putString("/")
		r := b.call(unix.SYS_OPEN, root, unix.O_PATH|unix.O_CLOEXEC, 0)
		for _, fd := range fds {
			// Not dup3, which refuses to replace a descriptor by itself: one that the service has closed since fds was
			// drawn up may be the number that open has just given.
			b.call(unix.SYS_DUP2, r, fd)
		}
		b.call(unix.SYS_CLOSE, r)
	}
}

// hide makes an anchor put placeholders in the place of more descriptors, and close those that are not open at all.
func (a *anchor) hide(ctx context.Context, fds, closed []int) error {
	b := a.batch()
	placeholders(fds)(b)
	for _, fd := range closed {
		b.try(unix.SYS_CLOSE, fd) // it may have been the one through which the others were replaced
	}
	if _, err := a.exec(ctx, b); err != nil {
		return fmt.Errorf("hide descriptors: %w", err)
	}
	return nil
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
