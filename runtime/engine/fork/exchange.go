package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// exchange puts one socket in the place of another in a dormant instance. The anchor does it, whose descriptor table is the
// instance's: nothing is traced, and a thread that is in a call on the socket repeats the call and finds the new one.
type exchange struct {
	in      *instance
	old     uint64
	fd, via int

	numbers []int // of the old socket, ascending
	cloexec []bool
	watches []interest
}

// interest is an entry of an epoll set for the old socket.
type interest struct {
	epoll int
	fdplan.Watch
}

// exchangePatience is how long the anchor may take. It waits for nobody: one that takes longer is not going to answer.
const exchangePatience = 5 * time.Second

// ReplaceSocket implements engine.SocketHolder.
func (in *instance) ReplaceSocket(ctx context.Context, old uint64, fd, via int) (engine.Socket, error) {
	if !in.Dormant() {
		return engine.Socket{}, fmt.Errorf("replace a socket of instance %d, which runs: %w", in.PID(), engine.ErrBusy)
	}
	x := &exchange{in: in, old: old, fd: fd, via: via}
	inode, err := fdplan.InodeOf(fd)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, exchangePatience)
		defer cancel()
		err = in.s.guard(in.a, func() error { return x.run(ctx) })
	}
	if err != nil {
		return engine.Socket{}, fmt.Errorf("replace socket %d of instance %d: %w", old, in.PID(), err)
	}
	return engine.Socket{Inode: inode, FD: x.numbers[0], Listener: -1}, nil
}

func (x *exchange) run(ctx context.Context) error {
	if err := x.look(); err != nil {
		return err
	}
	if err := x.dress(); err != nil {
		return err
	}
	return x.swap(ctx)
}

// look finds the numbers of the old socket and the epoll sets that it is in.
func (x *exchange) look() error {
	t, err := x.in.table()
	if err != nil {
		return err
	}
	defer t.close()
	var epolls []int
	want := socketLink(x.old)
	err = t.each(func(fd int, link string) error {
		switch link {
		case want:
			info, err := t.fdinfo(fd)
			if err != nil {
				return err
			}
			flags, err := strconv.ParseUint(field(info, "flags"), 8, 32)
			x.numbers, x.cloexec = append(x.numbers, fd), append(x.cloexec, flags&unix.O_CLOEXEC != 0)
			return err
		case "anon_inode:[eventpoll]":
			epolls = append(epolls, fd)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(x.numbers) == 0 {
		return engine.ErrNoSocket
	}
	for _, ep := range epolls {
		info, err := t.fdinfo(ep)
		if err != nil {
			return err
		}
		watches, inodes, err := fdplan.Watches(info)
		if err != nil {
			return err
		}
		for i, w := range watches {
			if inodes[i] != x.old {
				continue
			}
			if err := x.watched(ep, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// epollPrivate are the flags of an entry that are not events: EPOLLEXCLUSIVE, WAKEUP, ONESHOT and ET.
const epollPrivate = 1<<28 | 1<<29 | 1<<30 | 1<<31

func (x *exchange) watched(ep int, w fdplan.Watch) error {
	if !slices.Contains(x.numbers, w.FD) {
		return x.refuse(w.FD, "an epoll set watches it under a number that is closed",
			"the service has to take a descriptor out of the set before it closes it")
	}
	if w.Events&unix.EPOLLONESHOT != 0 && w.Events&^uint32(epollPrivate) == 0 {
		// It has fired and the service has yet to arm it again: added anew it would be armed for errors at once.
		return fmt.Errorf("fd %d is at rest in an epoll set: %w", w.FD, engine.ErrBusy)
	}
	for _, o := range x.watches { // duplicates of the epoll set's own descriptor show the same entries
		if o.Watch == w && x.sameEpoll(o.epoll, ep) {
			return nil
		}
	}
	x.watches = append(x.watches, interest{ep, w})
	return nil
}

func (x *exchange) sameEpoll(a, b int) bool {
	pid := uintptr(x.in.a.PID)
	r, _, e := unix.RawSyscall6(unix.SYS_KCMP, pid, pid, 0, uintptr(a), uintptr(b), 0)
	return e == 0 && r == 0
}

func (x *exchange) refuse(fd int, reason, wayOut string) error {
	return &engine.Refusal{PID: x.in.PID(), Blockers: []engine.Blocker{{
		Object: fmt.Sprintf("fd %d (socket)", fd), Reason: reason, WayOut: wayOut,
	}}}
}

// dress gives the new socket the flags and options of the old one.
func (x *exchange) dress() error {
	const wayOut = "serve it with --path=proxied"
	if !isUnixStream(x.fd) {
		return x.refuse(x.numbers[0], "what is to take its place is not a unix stream socket", wayOut)
	}
	old, err := x.in.getSocket(x.numbers[0], x.old)
	if err != nil {
		return err
	}
	defer unix.Close(old) // before the swap: the old socket has to go with the service's descriptors
	if !isUnixStream(old) {
		return x.refuse(x.numbers[0], "it is not a unix stream socket", wayOut)
	}
	if n, err := unix.IoctlGetInt(old, unix.TIOCINQ); err != nil || n != 0 {
		return errors.Join(err, fmt.Errorf("%d bytes are unread: %w", n, engine.ErrBusy))
	}
	flags, err := unix.FcntlInt(uintptr(old), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags&unix.O_ASYNC != 0 {
		return x.refuse(x.numbers[0], "the service has signals sent for it (O_ASYNC)", wayOut)
	}
	if on, err := unix.GetsockoptInt(old, unix.SOL_SOCKET, unix.SO_PASSCRED); err == nil && on != 0 {
		return x.refuse(x.numbers[0], "the service reads credentials with every message (SO_PASSCRED), which early ones lack", wayOut)
	}
	if _, err := unix.FcntlInt(uintptr(x.fd), unix.F_SETFL, flags&unix.O_NONBLOCK); err != nil {
		return err
	}
	if err := fdplan.SetOptions(x.fd, fdplan.Options(old, unix.AF_UNIX)); err != nil {
		return err
	}
	return copySizes(old, x.fd)
}

// copySizes copies what fdplan's options do not cover because it is never zero: buffer sizes and SO_RCVLOWAT.
func copySizes(from, to int) error {
	for _, o := range []struct{ name, force int }{
		{unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}, {unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}, {unix.SO_RCVLOWAT, 0},
	} {
		want, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, o.name)
		if err != nil {
			return err
		}
		have, err := unix.GetsockoptInt(to, unix.SOL_SOCKET, o.name)
		if err != nil {
			return err
		}
		if want == have {
			continue
		}
		if o.force == 0 {
			err = unix.SetsockoptInt(to, unix.SOL_SOCKET, o.name, want)
		} else if err = unix.SetsockoptInt(to, unix.SOL_SOCKET, o.force, want/2); errors.Is(err, unix.EPERM) { // the kernel doubles it
			err = unix.SetsockoptInt(to, unix.SOL_SOCKET, o.name, want/2)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// swap sends the new socket over and has the anchor put it in place. Over via it arrives in the old socket itself.
func (x *exchange) swap(ctx context.Context) error {
	a := x.in.a
	from, ours, pair := x.numbers[0], x.via, [2]int{-1, -1}
	if ours < 0 {
		var err error
		if pair, ours, err = x.channel(ctx); err != nil {
			return err
		}
		defer unix.Close(ours)
		from = pair[1]
	}
	b, added := x.entries(from, pair)
	cmd, err := a.start(b)
	if err != nil {
		return err
	}
	// The anchor waits for it, so that a byte is never in the service's socket without somebody who takes it out again.
	if err = unix.Sendmsg(ours, []byte{0}, unix.UnixRights(x.fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		err = errors.Join(err, x.unstick(ours))
	}
	if e := a.settle(ctx, cmd); e != nil {
		// What it does next, it would do to an instance that runs.
		_ = unix.PidfdSendSignal(x.in.leader.pidfd, unix.SIGKILL, nil, 0)
		return errors.Join(err, e)
	}
	if e := a.check(b); e != nil || err != nil {
		return errors.Join(err, e)
	}
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(a.PID, b.at, enc); err != nil {
		return gone(a.PID, err)
	}
	for _, r := range added {
		if n := result(enc, r); n < 0 {
			// The service would never hear of it again: let both ends know.
			return errors.Join(fmt.Errorf("watch the new socket: %w", unix.Errno(-n)), unix.Shutdown(x.fd, unix.SHUT_RDWR))
		}
	}
	return nil
}

// unstick ends the anchor's wait for a message that could not be sent: a byte without a descriptor makes the batch fail
// before it changes anything.
func (x *exchange) unstick(ours int) error {
	err := unix.Sendto(ours, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	if err != nil {
		err = errors.Join(err, unix.Shutdown(ours, unix.SHUT_WR))
	}
	return err
}

// channel makes a socket pair for the message, in the instance's table for as long as it takes.
func (x *exchange) channel(ctx context.Context) (pair [2]int, ours int, err error) {
	a := x.in.a
	b := a.batch()
	ends := b.reserve(8, 8)
	b.call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0, ends)
	if _, err := a.exec(ctx, b); err != nil {
		return pair, -1, err
	}
	for i := range pair {
		if pair[i], err = a.readInt(ends + 4*uint64(i)); err != nil {
			return pair, -1, err
		}
	}
	ours, err = unix.PidfdGetfd(a.pidfd, pair[0], 0)
	return pair, ours, gone(a.PID, err)
}

// entries makes the batch that receives the new socket at descriptor from and puts it in place. added are the calls that
// put it into epoll sets. pair is closed.
func (x *exchange) entries(from int, pair [2]int) (b *batch, added []ref) {
	b = x.in.a.batch()
	le := binary.LittleEndian
	const cmsgLen = 16 + 4
	one := b.reserve(8, 8)
	control := b.reserve(24, 8)
	got := control + 16
	le.PutUint32(b.data[got-b.dataAt:], ^uint32(0)) // -1: without a message the next call fails
	iov := b.put(le.AppendUint64(le.AppendUint64(nil, one), 1), 8)
	msg := make([]byte, 56)
	le.PutUint64(msg[16:], iov)
	le.PutUint64(msg[24:], 1)
	le.PutUint64(msg[32:], control)
	le.PutUint64(msg[40:], cmsgLen+4)
	hdr := b.put(msg, 8)
	poll := b.put(le.AppendUint64(nil, uint64(uint32(from))|unix.POLLIN<<32), 8)
	if pair[0] >= 0 {
		b.call(unix.SYS_CLOSE, pair[0])
	}
	b.call(unix.SYS_POLL, poll, 1, -1)
	b.call(unix.SYS_RECVMSG, from, hdr, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if pair[1] >= 0 {
		b.call(unix.SYS_CLOSE, pair[1])
	}
	for i, n := range x.numbers {
		flags := 0
		if x.cloexec[i] {
			flags = unix.O_CLOEXEC
		}
		b.call(unix.SYS_DUP3, intAt(got), n, flags)
	}
	b.call(unix.SYS_CLOSE, intAt(got))
	for _, w := range x.watches {
		added = append(added, b.try(unix.SYS_EPOLL_CTL, w.epoll, unix.EPOLL_CTL_ADD, w.FD, b.put(epollEvent(w.Watch), 4)))
	}
	return b, added
}

// settle is await for a batch that is over in a moment: it looks for longer before it sleeps, and lets the anchor run if that
// is on the same CPU.
func (a *anchor) settle(ctx context.Context, cmd uint32) error {
	const looks = 200 * time.Microsecond
	for until := time.Now().Add(looks); time.Now().Before(until); {
		if a.own.idle(cmd) {
			return nil
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return a.own.await(ctx, cmd, a.alive)
}
