package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// rebuild gives a freshly forked process descriptors of its own.
//
// New sockets, pipes and files are made by the engine and sent over a socket pair; interest lists are re-added by the
// process itself.
type rebuild struct {
	a      *anchor
	plan   *plan
	source process // where read-only files are reopened from
	dir    string  // for listening sockets
	dirs   []string
	name   string // of the instance, unique in dir
	net    *netns
	keep   map[engine.ConnID]bool
	roots  []int  // the instance's private directories
	saved  string // where the image's private files without a name are
	device string // path of the Binder device; "": none

	fds       map[int]int // descriptor of the plan -> the engine's new one
	plumbed   []engine.Plumbed
	listeners map[int]listener
}

func (r *rebuild) run(ctx context.Context) error {
	m := fdplan.Maker{
		Plan: &r.plan.Plan, Source: r.source.PID, Dir: r.dir, Dirs: r.dirs, Name: r.name, Net: &r.net.Netns, Keep: r.keep,
		Binder: r.device, Roots: r.roots, Saved: r.saved,
	}
	defer m.Close()
	err := m.Run()
	r.fds, r.listeners = m.Made, m.Listeners
	if err == nil {
		err = r.send(ctx)
	}
	if err == nil {
		err = r.epolls(ctx)
	}
	if err != nil {
		m.Unplumb()
		return err
	}
	r.plumbed = m.Plumbed
	return nil
}

// Limits of one round: SCM_MAX_FD descriptors in a message, and what fits a batch.
const sendChunk = 200

// send hands the new descriptors over and puts them at their numbers.
func (r *rebuild) send(ctx context.Context) error {
	var order []*planFD
	for i := range r.plan.FDs {
		if p := &r.plan.FDs[i]; r.fds[p.FD] != 0 {
			order = append(order, p)
		}
	}
	for len(order) > 0 {
		n := min(len(order), sendChunk)
		if err := r.sendChunk(ctx, order[:n]); err != nil {
			return fmt.Errorf("hand over descriptors: %w", err)
		}
		order = order[n:]
	}
	if err := r.binder(ctx); err != nil {
		return err
	}
	if err := r.duplicates(ctx); err != nil {
		return err
	}
	return r.locks(ctx)
}

func (r *rebuild) sendChunk(ctx context.Context, chunk []*planFD) error {
	a := r.a
	b := a.batch()
	ends := b.reserve(8, 8)
	b.call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0, ends)
	if _, err := a.exec(ctx, b); err != nil {
		return err
	}
	ours, err := a.getfd(ends)
	if err != nil {
		return err
	}
	fds := make([]int, len(chunk))
	for i, p := range chunk {
		fds[i] = r.fds[p.FD]
	}
	err = unix.Sendmsg(ours, []byte{0}, unix.UnixRights(fds...), nil, 0)
	unix.Close(ours)
	if err != nil {
		return err
	}
	b = a.batch()
	if got := b.reserve(8, 8); got != ends {
		return errors.New("batch data moved")
	}
	// The numbers of the pair were written by the first batch and must survive the second's data.
	var pair [8]byte
	if err := readMem(a.PID, ends, pair[:]); err != nil {
		return gone(a.PID, err)
	}
	copy(b.data, pair[:])
	le := binary.LittleEndian
	cmsgLen := 16 + 4*len(chunk)
	one := b.reserve(8, 8)
	control := b.reserve(cmsgLen+8, 8)
	iov := b.put(le.AppendUint64(le.AppendUint64(nil, one), 1), 8)
	msg := make([]byte, 56)
	le.PutUint64(msg[16:], iov)
	le.PutUint64(msg[24:], 1)
	le.PutUint64(msg[32:], control)
	le.PutUint64(msg[40:], uint64(cmsgLen+8))
	hdr := b.put(msg, 8)
	b.call(unix.SYS_RECVMSG, intAt(ends+4), hdr, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	b.call(unix.SYS_CLOSE, intAt(ends))
	b.call(unix.SYS_CLOSE, intAt(ends+4))
	for i, p := range chunk {
		at := intAt(control + 16 + 4*uint64(i))
		b.call(unix.SYS_DUP3, at, p.FD, p.Flags&unix.O_CLOEXEC)
		b.call(unix.SYS_CLOSE, at)
	}
	_, err = a.exec(ctx, b)
	return err
}

// duplicates restores descriptors that share an open file description.
func (r *rebuild) duplicates(ctx context.Context) error {
	b := r.a.batch()
	for i := range r.plan.FDs {
		if p := &r.plan.FDs[i]; p.DupOf != 0 && p.Kind != fdEpoll {
			b.call(unix.SYS_DUP3, p.DupOf-1, p.FD, p.Flags&unix.O_CLOEXEC)
		}
	}
	_, err := r.a.exec(ctx, b)
	return err
}

// locks takes the locks that belong to the instance's descriptor table.
func (r *rebuild) locks(ctx context.Context) error {
	b := r.a.batch()
	for _, l := range r.plan.ProcessLocks() {
		f := l.Lock.Flock()
		arg := make([]byte, unsafe.Sizeof(f))
		le := binary.LittleEndian
		le.PutUint16(arg, uint16(f.Type))
		le.PutUint64(arg[unsafe.Offsetof(f.Start):], uint64(f.Start))
		le.PutUint64(arg[unsafe.Offsetof(f.Len):], uint64(f.Len))
		b.call(unix.SYS_FCNTL, l.FD, unix.F_SETLK, b.put(arg, 8))
		if len(b.entries) >= 3*sendChunk {
			if _, err := r.a.exec(ctx, b); err != nil {
				return fmt.Errorf("lock private files: %w", err)
			}
			b = r.a.batch()
		}
	}
	if _, err := r.a.exec(ctx, b); err != nil {
		return fmt.Errorf("lock private files: %w", err)
	}
	return nil
}

// epolls makes the epoll instances anew, all of them before any is filled: they can watch each other.
func (r *rebuild) epolls(ctx context.Context) error {
	b := r.a.batch()
	for i := range r.plan.FDs {
		p := &r.plan.FDs[i]
		switch {
		case p.Kind != fdEpoll:
		case p.DupOf != 0:
			b.call(unix.SYS_DUP3, p.DupOf-1, p.FD, p.Flags&unix.O_CLOEXEC)
		default:
			e := b.call(unix.SYS_EPOLL_CREATE1, unix.EPOLL_CLOEXEC)
			b.call(unix.SYS_DUP3, e, p.FD, p.Flags&unix.O_CLOEXEC)
			b.call(unix.SYS_CLOSE, e)
		}
	}
	for i := range r.plan.FDs {
		p := &r.plan.FDs[i]
		if p.Kind != fdEpoll || p.DupOf != 0 {
			continue
		}
		if slices.ContainsFunc(p.Watches, spent) {
			if _, err := r.a.exec(ctx, b); err != nil {
				return fmt.Errorf("make epoll anew: %w", err)
			}
			if err := r.addSpent(ctx, p); err != nil {
				return fmt.Errorf("make epoll anew: %w", err)
			}
			b = r.a.batch()
		}
		for _, w := range p.Watches {
			if spent(w) || r.plan.watchesBinder(w) {
				continue // see addSpent, enterBinder
			}
			addWatch(b, p.FD, w)
			if len(b.entries) >= 3*sendChunk {
				if _, err := r.a.exec(ctx, b); err != nil {
					return fmt.Errorf("fill epoll: %w", err)
				}
				b = r.a.batch()
			}
		}
	}
	if _, err := r.a.exec(ctx, b); err != nil {
		return fmt.Errorf("make epoll anew: %w", err)
	}
	return nil
}
