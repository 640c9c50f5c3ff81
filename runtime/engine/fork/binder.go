package fork

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// What the driver keeps for an open Binder device is tied to the memory of the process that has opened it, and its mapping is not
// inherited. So the anchor of a new instance opens the device anew, maps it where it was and publishes the service's
// objects; the threads, which share all that with the anchor, enter the driver by themselves before they park.

// BINDER_SET_MAX_THREADS and commands; see linux/android/binder.h.
const (
	binderSetMaxThreads = 0x40046205
	bcTransaction       = 0x40406300
	bcIncRefs           = 0x40046304
	bcAcquire           = 0x40046305
	bcEnterLooper       = 0x630c
	brTransactionDone   = 0x7206
	brSpamSuspect       = 0x7213
	binderTypeBinder    = 's'<<24 | 'b'<<16 | '*'<<8 | 0x85
	binderAcceptsFDs    = 0x17f // and any priority, as libbinder has it
	binderOneWay        = 1
	binderObjectSize    = 24
)

// readBinder adds to the plan what the open Binder device is, and refuses what could not be made anew. In the middle of a
// transaction the error is engine.ErrBusy.
func (c *capturer) readBinder(p *fdplan.Plan) error {
	var open *fdplan.FD
	var blockers []engine.Blocker
	for i := range p.FDs {
		switch f := &p.FDs[i]; {
		case f.Kind != fdplan.Binder || f.DupOf != 0:
		case open != nil:
			blockers = append(blockers, engine.Blocker{
				Object: fmt.Sprintf("fd %d (%s)", f.FD, c.binder.Device),
				Reason: fmt.Sprintf("the Binder device is open twice, by fd %d as well", open.FD),
				WayOut: "let the service open the device once",
			})
		default:
			open = f
		}
	}
	if open == nil {
		return nil
	}
	if len(blockers) > 0 { // what the driver says could be about either
		return &engine.Refusal{PID: c.pid, Blockers: blockers}
	}
	v := binderView{c: c, fd: open, object: fmt.Sprintf("fd %d (%s)", open.FD, c.binder.Device)}
	if err := v.read(p); err != nil {
		return fmt.Errorf("%s of process %d: %w", v.object, c.pid, err)
	}
	if len(v.blockers) > 0 {
		return &engine.Refusal{PID: c.pid, Blockers: v.blockers}
	}
	return nil
}

// binderView is a look at what the driver keeps.
type binderView struct {
	c        *capturer
	fd       *fdplan.FD
	object   string
	blockers []engine.Blocker
}

func (v *binderView) block(object, reason, wayOut string) {
	v.blockers = append(v.blockers, engine.Blocker{Object: object, Reason: reason, WayOut: wayOut})
}

func (v *binderView) read(p *fdplan.Plan) error {
	dir, name := filepath.Split(v.c.binder.Device)
	all, err := binderfs.ReadProcesses(dir, v.c.binderPID, name)
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("the driver knows it %d times, for process %d; corsa has to be in the initial pid namespace", len(all), v.c.binderPID)
	}
	driver := &all[0]
	pool, err := binderfs.ReadPool(dir, v.c.binderPID, name)
	if err != nil {
		return err
	}
	open := &fdplan.BinderOpen{MaxThreads: uint32(max(pool.Max-pool.Started-pool.Asked, 0))}
	v.fd.Binder = open
	if err := v.threads(driver, p); err != nil {
		return err
	}
	if err := busyBinder(driver); err != nil {
		return err
	}
	v.nodes(driver)
	v.refs(driver)
	return v.mapping()
}

// busyBinder gives engine.ErrBusy if anything is under way that an instance would not have.
func busyBinder(driver *binderfs.Process) error {
	if len(driver.Pending) > 0 {
		return fmt.Errorf("%s: %w", driver.Pending[0], engine.ErrBusy)
	}
	if driver.Buffers > 0 {
		return fmt.Errorf("%d parcels that were received are still in use: %w", driver.Buffers, engine.ErrBusy)
	}
	for _, n := range driver.Nodes {
		if len(n.Pending) > 0 {
			return fmt.Errorf("%s: %w", n.Pending[0], engine.ErrBusy)
		}
	}
	for _, t := range driver.Threads {
		if open := append(t.Transactions, t.Pending...); len(open) > 0 {
			return fmt.Errorf("thread %d: %s: %w", t.TID, open[0], engine.ErrBusy)
		}
	}
	return nil
}

// threads finds those that take transactions.
func (v *binderView) threads(driver *binderfs.Process, p *fdplan.Plan) error {
	open := v.fd.Binder
	var pollers []int
	for _, t := range driver.Threads {
		if !t.Looper.Waits() {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", v.c.pid, t.TID)); err != nil {
			continue // it has ended without telling the driver
		}
		inner, err := innerTID(v.c.pid, t.TID)
		if err != nil {
			return err
		}
		open.Loopers = append(open.Loopers, inner)
		if t.Looper&binderfs.LooperPoll != 0 {
			pollers = append(pollers, inner)
		}
	}
	if len(pollers) == 1 {
		open.Poller = pollers[0]
		return nil
	}
	for i := range p.FDs {
		for _, w := range p.FDs[i].Watches {
			if f := p.ByFD(w.FD); f != nil && f.Kind == fdplan.Binder {
				v.block(fmt.Sprintf("fd %d (epoll)", p.FDs[i].FD), fmt.Sprintf("%d threads wait for %s by it, and it cannot be told which of them is meant",
					len(pollers), v.object), "let one thread wait for the device by epoll, or let all of them wait in BINDER_WRITE_READ")
			}
		}
	}
	return nil
}

// nodes takes note of the objects that others know.
func (v *binderView) nodes(driver *binderfs.Process) {
	for _, n := range driver.Nodes {
		if len(n.Holders) == 0 {
			continue
		}
		v.fd.Binder.Nodes = append(v.fd.Binder.Nodes, fdplan.BinderNode{Ptr: n.Ptr, Cookie: n.Cookie})
		for _, pid := range n.Holders {
			if pid != v.c.binder.Manager {
				v.block(fmt.Sprintf("Binder object %#x", n.Ptr), fmt.Sprintf("process %d has a reference to it that has not come through the gate", pid),
					"adopt the service before others look it up, and let it hand out no objects in calls of its own")
			}
		}
	}
}

// refs refuses references to others' objects: the numbers that the service knows them by would mean nothing in an instance.
func (v *binderView) refs(driver *binderfs.Process) {
	for _, r := range driver.Refs {
		if r.Handle == 0 {
			v.fd.Binder.Manager = true // that it waits for the manager's death does not matter: the gate is replaced without a word
			continue
		}
		what := "an object of another process"
		if r.Death {
			what += ", and waits to be told of its death"
		}
		if r.Dead {
			what += ", which is dead"
		}
		v.block(fmt.Sprintf("Binder handle %d", r.Handle), "the service holds a reference to "+what,
			"let it release what apps pass to it before it answers; callbacks that it keeps cannot be virtualised")
	}
}

// mapping finds where the device is mapped.
func (v *binderView) mapping() error {
	maps, err := readMaps(v.c.pid)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if !strings.HasPrefix(m.Path, "/") || !v.maps(m) {
			continue
		}
		open := v.fd.Binder
		if open.Size != 0 {
			v.block(v.object, "its mapping is in pieces", "let the service not change the protection of its Binder mapping")
			return nil
		}
		open.Start, open.Size = m.Start, m.End-m.Start
	}
	return nil
}

func (v *binderView) maps(m mapping) bool {
	if filepath.Base(m.Path) != filepath.Base(v.c.binder.Device) {
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/map_files/%x-%x", v.c.pid, m.Start, m.End), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Ino == v.fd.Inode
}

// binder returns what the plan has of a Binder device, or nil.
func (p *plan) binder() *planFD {
	for i := range p.FDs {
		if f := &p.FDs[i]; f.Kind == fdplan.Binder && f.DupOf == 0 {
			return f
		}
	}
	return nil
}

// binder opens the device in the instance, whose descriptor is there by name only, and maps it.
func (r *rebuild) binder(ctx context.Context) error {
	f := r.plan.binder()
	if f == nil {
		return nil
	}
	b := r.a.batch()
	path := b.putString(fmt.Sprintf("/proc/self/fd/%d", f.FD))
	n := b.call(unix.SYS_OPEN, path, f.Flags&(unix.O_ACCMODE|unix.O_NONBLOCK)|unix.O_CLOEXEC, 0)
	b.call(unix.SYS_DUP3, n, f.FD, f.Flags&unix.O_CLOEXEC)
	b.call(unix.SYS_CLOSE, n)
	most := b.put(binary.LittleEndian.AppendUint32(nil, f.Binder.MaxThreads), 8)
	b.call(unix.SYS_IOCTL, f.FD, binderSetMaxThreads, most)
	if f.Binder.Size != 0 {
		b.call(unix.SYS_MMAP, f.Binder.Start, f.Binder.Size, unix.PROT_READ,
			unix.MAP_PRIVATE|unix.MAP_NORESERVE|unix.MAP_FIXED_NOREPLACE, f.FD, 0)
	}
	if _, err := r.a.exec(ctx, b); err != nil {
		return fmt.Errorf("fd %d: open and map the Binder device anew (the service's user has to be allowed to, and /proc has to be there): %w", f.FD, err)
	}
	return nil
}

// publishBinder tells the context manager of the instance's objects. What the driver says about references is consumed and,
// other than the service would, never acknowledged: so the driver does not let go of them as long as the instance lives,
// and the service, which takes them for referenced since it was captured, is not told otherwise.
func (in *instance) publishBinder(ctx context.Context) error {
	f := in.binder
	if f == nil {
		return nil
	}
	if _, err := rand.Read(in.token[:]); err != nil {
		return err
	}
	b := in.a.batch()
	read := publication(b, f.Binder, in.token)
	b.call(unix.SYS_IOCTL, f.FD, binderWriteRead, read.bwr)
	if _, err := in.a.exec(ctx, b); err != nil {
		return fmt.Errorf("publish Binder objects: %w", err)
	}
	said := make([]byte, read.size)
	if err := readMem(in.a.PID, read.at, said); err != nil {
		return gone(in.a.PID, err)
	}
	var consumed [8]byte
	if err := readMem(in.a.PID, read.bwr+32, consumed[:]); err != nil {
		return gone(in.a.PID, err)
	}
	said = said[:min(binary.LittleEndian.Uint64(consumed[:]), uint64(len(said)))]
	for len(said) >= 4 {
		cmd := binary.LittleEndian.Uint32(said)
		if cmd == brTransactionDone || cmd == brSpamSuspect {
			return nil
		}
		said = said[min(4+int(cmd>>16)&0x3fff, len(said)):]
	}
	return errors.New("publish Binder objects: nobody has taken them; the device needs its gate as context manager")
}

// publicationRead is where the driver's answer will be.
type publicationRead struct {
	bwr, at uint64
	size    int
}

// publication puts the transaction into the batch's data.
func publication(b *batch, open *fdplan.BinderOpen, token engine.BrokerToken) publicationRead {
	le := binary.LittleEndian
	n := len(open.Nodes)
	data := append([]byte(nil), token[:]...)
	data = le.AppendUint32(le.AppendUint32(data, uint32(n)), 0)
	for _, node := range open.Nodes {
		data = le.AppendUint64(data, node.Ptr)
	}
	var offsets []byte
	for _, node := range open.Nodes {
		offsets = le.AppendUint64(offsets, uint64(len(data)))
		data = le.AppendUint32(le.AppendUint32(data, binderTypeBinder), binderAcceptsFDs)
		data = le.AppendUint64(le.AppendUint64(data, node.Ptr), node.Cookie)
	}
	dataAt, offsetsAt := b.put(data, 8), b.put(append(offsets, 0), 8)
	var write []byte
	if open.Manager {
		for _, cmd := range []uint32{bcIncRefs, bcAcquire} {
			write = le.AppendUint32(le.AppendUint32(write, cmd), 0)
		}
	}
	write = le.AppendUint64(le.AppendUint64(le.AppendUint32(write, bcTransaction), 0), 0)
	write = le.AppendUint32(le.AppendUint32(write, engine.BrokerPublish), binderOneWay)
	write = le.AppendUint64(write, 0)
	for _, v := range []uint64{uint64(len(data)), uint64(8 * n), dataAt, offsetsAt} {
		write = le.AppendUint64(write, v)
	}
	r := publicationRead{size: 512 + n*2*(4+16)}
	writeAt := b.put(write, 8)
	r.at = b.reserve(r.size, 8)
	r.bwr = b.put(bwr(writeAt, len(write), r.at, r.size), 8)
	return r
}

// bwr is struct binder_write_read.
func bwr(writeAt uint64, write int, readAt uint64, read int) []byte {
	var b []byte
	for _, v := range []uint64{uint64(write), 0, writeAt, uint64(read), 0, readAt} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// enterBinder makes a thread that takes transactions tell the new driver so, and puts the device back into the epoll sets by
// which it waits: the driver wakes the thread that has added it.
func (s *spawn) enterBinder(t threadState, b *batch) {
	if !s.loops(t) {
		return
	}
	command := b.put(binary.LittleEndian.AppendUint32(nil, bcEnterLooper), 8)
	b.call(unix.SYS_IOCTL, s.binder.FD, binderWriteRead, b.put(bwr(command, 4, 0, 0), 8))
	if t.TID != s.binder.Binder.Poller {
		return
	}
	for i := range s.plan.FDs {
		p := &s.plan.FDs[i]
		if p.Kind != fdEpoll || p.DupOf != 0 {
			continue
		}
		for _, w := range p.Watches {
			if s.plan.watchesBinder(w) {
				b.call(unix.SYS_EPOLL_CTL, p.FD, unix.EPOLL_CTL_ADD, w.FD, b.put(epollEvent(w), 4))
			}
		}
	}
}

// loops reports whether the thread has to enter the driver.
func (s *spawn) loops(t threadState) bool {
	return s.binder != nil && slices.Contains(s.binder.Binder.Loopers, t.TID)
}

func (p *plan) watchesBinder(w fdplan.Watch) bool {
	f := p.ByFD(w.FD)
	return f != nil && f.Kind == fdplan.Binder
}

// BrokerToken implements engine.BrokeredInstance.
func (in *instance) BrokerToken() engine.BrokerToken { return in.token }

// BrokerIdle implements engine.BrokeredInstance.
func (in *instance) BrokerIdle() (bool, error) {
	if in.binder == nil {
		return true, nil
	}
	dir, name := filepath.Split(in.s.target.Broker.Device)
	all, err := binderfs.ReadProcesses(dir, in.a.PID, name)
	if err != nil {
		return false, err
	}
	for i := range all {
		if err := busyBinder(&all[i]); err != nil {
			return false, nil
		}
	}
	return true, nil
}

// BrokerPID implements engine.BrokeredInstance.
func (in *instance) BrokerPID() int { return in.a.PID }
