package fork

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine/fdplan"
)

// addWatch adds an entry to a set. One whose file is not under its number any more is added while it is.
func addWatch(b *batch, set int, w fdplan.Watch) {
	event := b.put(epollEvent(w), 4)
	if w.File == 0 {
		b.call(unix.SYS_EPOLL_CTL, set, unix.EPOLL_CTL_ADD, w.FD, event)
		return
	}
	var kept ref
	if w.Taken {
		kept = b.call(unix.SYS_FCNTL, w.FD, unix.F_DUPFD_CLOEXEC, 0)
	}
	b.call(unix.SYS_DUP3, w.File-1, w.FD, unix.O_CLOEXEC)
	b.call(unix.SYS_EPOLL_CTL, set, unix.EPOLL_CTL_ADD, w.FD, event)
	if !w.Taken {
		b.call(unix.SYS_CLOSE, w.FD)
		return
	}
	flags := 0
	if w.Cloexec {
		flags = unix.O_CLOEXEC
	}
	b.call(unix.SYS_DUP3, kept, w.FD, flags)
	b.call(unix.SYS_CLOSE, kept)
}

// epollEvent is struct epoll_event.
func epollEvent(w fdplan.Watch) []byte {
	ev := make([]byte, 12)
	binary.LittleEndian.PutUint32(ev, w.Events)
	binary.LittleEndian.PutUint64(ev[4:], w.Data)
	return ev
}

// spent reports whether a one-shot entry has had its event and waits to be armed again.
func spent(w fdplan.Watch) bool {
	const modes = unix.EPOLLONESHOT | unix.EPOLLET&0xffffffff | unix.EPOLLWAKEUP | unix.EPOLLEXCLUSIVE
	return w.Events&unix.EPOLLONESHOT != 0 && w.Events&^modes == 0 && w.File == 0
}

// addSpent adds the spent entries of a set that is still empty. Adding one arms it for errors and hang-ups, whatever is asked
// for; only an event disarms it again. So it is added for all that there is, and most files are ready for something; those
// that are not remain armed for errors and hang-ups.
func (r *rebuild) addSpent(ctx context.Context, p *planFD) error {
	var list []fdplan.Watch
	for _, w := range p.Watches {
		if spent(w) && !r.plan.watchesBinder(w) {
			list = append(list, w)
		}
	}
	const eventSize = 12
	for len(list) > 0 {
		n := min(len(list), sendChunk)
		chunk := list[:n]
		list = list[n:]
		b := r.a.batch()
		for _, w := range chunk {
			w.Events |= unix.EPOLLIN | unix.EPOLLOUT
			addWatch(b, p.FD, w)
		}
		at := b.reserve(n*eventSize, 8)
		wait := b.call(unix.SYS_EPOLL_WAIT, p.FD, at, n, 0)
		enc, err := r.a.exec(ctx, b)
		if err != nil {
			return err
		}
		events := make([]byte, result(enc, wait)*eventSize)
		if err := readMem(r.a.PID, at, events); err != nil {
			return gone(r.a.PID, err)
		}
		left := map[uint64]int{} // entries that have had no event, by their data
		for _, w := range chunk {
			left[w.Data]++
		}
		for ; len(events) > 0; events = events[eventSize:] {
			left[binary.LittleEndian.Uint64(events[4:])]--
		}
		b = r.a.batch()
		for _, w := range chunk {
			if left[w.Data] > 0 { // this one, or another with the same data
				b.call(unix.SYS_EPOLL_CTL, p.FD, unix.EPOLL_CTL_MOD, w.FD, b.put(epollEvent(w), 4))
			}
		}
		if _, err := r.a.exec(ctx, b); err != nil {
			return err
		}
	}
	return nil
}
