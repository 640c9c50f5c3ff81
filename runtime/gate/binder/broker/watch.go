package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// watcher waits for the death of processes: one thread for all.
type watcher struct {
	epfd, wakefd int

	mu   sync.Mutex
	last uint64
	dead map[uint64]func() // what to do, by number
	on   func(a *app, in engine.Instance)
	gone func(a *app)
}

func newWatcher(on func(*app, engine.Instance), gone func(*app)) (*watcher, error) {
	w := &watcher{dead: map[uint64]func(){}, on: on, gone: gone, epfd: -1, wakefd: -1}
	var err error
	if w.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		w.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = w.add(w.wakefd, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch processes: %w", err), w.close())
	}
	return w, nil
}

func (w *watcher) add(fd int, id uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
	ev.Fd, ev.Pad = int32(id), int32(id>>32)
	return unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &ev)
}

// watch has f called when the process behind pidfd has ended, unless the pidfd is closed before.
func (w *watcher) watch(pidfd int, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	if err := w.add(pidfd, w.last); err != nil {
		return fmt.Errorf("watch a process: %w", err)
	}
	w.dead[w.last] = f
	return nil
}

func (w *watcher) instance(a *app, in engine.Instance) error {
	return w.watch(in.PIDFD(), func() { w.on(a, in) })
}

func (w *watcher) process(a *app, pidfd int) error { return w.watch(pidfd, func() { w.gone(a) }) }

// run calls what has been asked for until ctx is done and wake is called.
func (w *watcher) run(ctx context.Context) {
	var events [64]unix.EpollEvent
	for ctx.Err() == nil {
		n, err := unix.EpollWait(w.epfd, events[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		for _, ev := range events[:max(n, 0)] {
			id := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			w.mu.Lock()
			f := w.dead[id]
			delete(w.dead, id)
			w.mu.Unlock()
			if f != nil {
				f()
			}
		}
	}
}

// wake makes run look at its context.
func (w *watcher) wake() {
	_, _ = unix.Write(w.wakefd, binary.NativeEndian.AppendUint64(nil, 1)) // EAGAIN: it is awake
}

func (w *watcher) close() error {
	var err error
	for _, fd := range []int{w.epfd, w.wakefd} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
