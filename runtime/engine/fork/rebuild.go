package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// listener is an instance's own listening socket.
type listener struct {
	Network string `json:"network"`
	Address string `json:"address"` // a path that only root can reach, or an address in the engine's network namespace
	Inode   uint64 `json:"inode"`
}

// rebuild gives a freshly forked process descriptors of its own.
//
// New sockets, pipes and files are made by the engine and sent over a socket pair, so that the service's
// credentials and view of the file system do not matter; interest lists are re-added by the process itself.
type rebuild struct {
	a      *anchor
	plan   *plan
	source process // where read-only files are reopened from
	dir    string  // for listening sockets
	name   string  // of the instance, unique in dir
	net    *netns
	keep   map[engine.ConnID]bool

	fds       map[int]int // descriptor of the plan -> the engine's new one
	ours      []int       // to be closed in the end
	plumbed   []engine.Plumbed
	listeners map[int]listener
}

func (r *rebuild) run(ctx context.Context) (err error) {
	r.fds, r.listeners = map[int]int{}, map[int]listener{}
	defer func() {
		for _, fd := range r.ours {
			unix.Close(fd)
		}
		if err != nil {
			for _, p := range r.plumbed {
				unix.Close(p.FD)
			}
			r.plumbed = nil
		}
	}()
	for i := range r.plan.FDs {
		p := &r.plan.FDs[i]
		if p.DupOf != 0 || p.Kind == fdEpoll || r.fds[p.FD] != 0 {
			continue
		}
		if err := r.make(p); err != nil {
			return fmt.Errorf("fd %d (%s): make anew: %w", p.FD, p.Kind, err)
		}
	}
	if err := r.send(ctx); err != nil {
		return err
	}
	return r.epolls(ctx)
}

// add takes note of the engine's new descriptor for p; it becomes ours to close once it has been sent.
func (r *rebuild) add(p *planFD, fd int, err error) error {
	if err != nil {
		return err
	}
	r.ours = append(r.ours, fd)
	r.fds[p.FD] = fd
	return nil
}

func (r *rebuild) make(p *planFD) error {
	switch p.Kind {
	case fdListen:
		return r.listen(p)
	case fdConn:
		return r.connection(p)
	case fdClosed:
		a, b, err := socketPair(p.Type)
		if err == nil {
			unix.Close(b)
		}
		return errors.Join(r.add(p, a, err), r.finish(p))
	case fdPair:
		return r.pair(p)
	case fdPipe:
		return r.pipe(p)
	case fdFile:
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%d", r.source.PID, p.FD), p.Flags&^unix.O_CREAT|unix.O_CLOEXEC, 0)
		if err := r.add(p, fd, err); err != nil {
			return err
		}
		_, err = unix.Seek(fd, p.Pos, unix.SEEK_SET)
		return err
	case fdEvent:
		fd, err := unix.Eventfd(0, p.Type|unix.EFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
		if err := r.add(p, fd, err); err != nil || p.Count == 0 {
			return err
		}
		_, err = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, p.Count))
		return err
	case fdSignal:
		set := unix.Sigset_t{Val: [16]uint64{p.Sigmask}}
		fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
		return r.add(p, fd, err)
	case fdTimer:
		fd, err := unix.TimerfdCreate(p.Clock, unix.TFD_CLOEXEC|p.Flags&unix.O_NONBLOCK)
		if err := r.add(p, fd, err); err != nil {
			return err
		}
		return unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{
			Value:    unix.Timespec{Sec: p.Value[0], Nsec: p.Value[1]},
			Interval: unix.Timespec{Sec: p.Interval[0], Nsec: p.Interval[1]},
		}, nil)
	}
	return fmt.Errorf("unknown kind %q", p.Kind)
}

// finish gives a new socket the flags and options of the old one.
func (r *rebuild) finish(p *planFD) error {
	fd, ok := r.fds[p.FD]
	if !ok {
		return nil
	}
	for _, o := range p.Options {
		if err := setsockopt(fd, o); err != nil {
			return err
		}
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, p.Flags&(unix.O_NONBLOCK|unix.O_ASYNC|unix.O_APPEND))
	return err
}

func socketPair(typ int) (int, int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	return p[0], p[1], nil
}

func (r *rebuild) listen(p *planFD) error {
	if l, ok := r.listeners[p.Listener]; ok {
		return fmt.Errorf("a second socket listens on %s", l.Address)
	}
	var fd int
	var l listener
	var err error
	if p.Family == unix.AF_UNIX {
		l = listener{Network: "unix", Address: filepath.Join(r.dir, fmt.Sprintf("%s.%d.sock", r.name, p.Listener))}
		if fd, err = unix.Socket(unix.AF_UNIX, p.Type|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(r.add(p, fd, nil), unix.Bind(fd, &unix.SockaddrUnix{Name: l.Address}))
	} else {
		l.Network = "tcp"
		fd, l.Address, err = r.net.listen(p.Family)
		err = r.add(p, fd, err)
	}
	if err != nil {
		return err
	}
	if err := unix.Listen(fd, max(p.Backlog, 4096)); err != nil {
		return err
	}
	if l.Inode, err = inodeOf(fd); err != nil {
		return err
	}
	r.listeners[p.Listener] = l
	return r.finish(p)
}

// connection re-plumbs a connection that the app still has, or lets the service find an end of file.
func (r *rebuild) connection(p *planFD) error {
	var theirs, ours int
	var err error
	if p.Family == unix.AF_UNIX {
		theirs, ours, err = socketPair(p.Type)
	} else {
		theirs, ours, err = r.net.pair(p.Family)
	}
	if err := r.add(p, theirs, err); err != nil {
		return err
	}
	if !r.keep[p.Conn] {
		unix.Close(ours)
		return r.finish(p)
	}
	ino, err := inodeOf(theirs)
	if err == nil {
		err = unix.SetNonblock(ours, true)
	}
	if err != nil {
		unix.Close(ours)
		return err
	}
	r.plumbed = append(r.plumbed, engine.Plumbed{ID: p.Conn, FD: ours, Inode: ino})
	return r.finish(p)
}

func (r *rebuild) pair(p *planFD) error {
	q := r.plan.byFD(p.Peer)
	a, b, err := socketPair(p.Type)
	if err := r.add(p, a, err); err != nil {
		return err
	}
	if q == nil || q.Kind != fdPair {
		return fmt.Errorf("fd %d, its other end, is not in the plan", p.Peer)
	}
	if err := r.add(q, b, nil); err != nil {
		return err
	}
	return errors.Join(r.finish(p), r.finish(q), fill(b, p.Data), fill(a, q.Data))
}

func (r *rebuild) pipe(p *planFD) error {
	q := r.plan.byFD(p.Peer)
	if q == nil || q.Kind != fdPipe {
		return fmt.Errorf("fd %d, its other end, is not in the plan", p.Peer)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	rd, wr := p, q
	if p.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		rd, wr = q, p
	}
	_, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, max(len(rd.Data), 16*pageSize))
	return errors.Join(err, r.add(rd, ends[0], nil), r.add(wr, ends[1], nil), fill(ends[1], rd.Data), r.finish(rd), r.finish(wr))
}

func fill(fd int, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	n, err := unix.Write(fd, data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%d of %d bytes fit", n, len(data))
	}
	return err
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
	return r.duplicates(ctx)
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
		for _, w := range p.Watches {
			ev := make([]byte, 12)
			binary.LittleEndian.PutUint32(ev, w.Events)
			binary.LittleEndian.PutUint64(ev[4:], w.Data)
			b.call(unix.SYS_EPOLL_CTL, p.FD, unix.EPOLL_CTL_ADD, w.FD, b.put(ev, 4))
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
