package enginetest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// holder is the instance as a SocketHolder. An engine without is none the worse: the gate moves the bytes then.
func (a *app) holder() (engine.SocketHolder, bool) {
	h, ok := a.in.(engine.SocketHolder)
	if !ok {
		a.t.Log("the engine does not exchange sockets")
	}
	return h, ok
}

// outside makes a connection that is not an instance's: the app's end, and the other as a gate has it that has accepted it.
func outside(t *testing.T) (*conn, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{t: t, nc: os.NewFile(uintptr(p[0]), "app")}
	t.Cleanup(c.close)
	return c, p[1]
}

// raw dials the instance and returns the descriptor and the inode of the instance's end, once the service has accepted.
func (a *app) raw() (fd int, inode uint64) {
	a.t.Helper()
	before := a.sockets()
	fd, err := a.in.Dial(0)
	if err != nil {
		a.t.Fatal(err)
	}
	if !eventually(func() bool {
		for i := range a.sockets() {
			if !before[i] {
				inode = i
			}
		}
		return inode != 0
	}) {
		a.t.Fatalf("the connection is not accepted\n%s", describe(a.in.PID()))
	}
	return fd, inode
}

// replaceSocket has apps' sockets put in the place of accepted ones, in a service that is in the middle of waiting for them:
// what the app sent before is answered, what it sends later too, and each end notices when the other has gone.
func (s *suite) replaceSocket(name string) func(t *testing.T) {
	return func(t *testing.T) {
		a, id := s.serving(t, name)
		h, ok := a.holder()
		if !ok {
			return
		}
		for round := range 6 {
			fast, early := round%2 == 0, round%3 != 0
			c, theirs := outside(t)
			if early {
				c.send("get")
			}
			via, old := a.raw()
			if round > 3 { // it has been in use
				_, _ = unix.Write(via, []byte("get\n"))
				drain(t, via, fmt.Sprint(a.sum))
			}
			a.park()
			given := -1
			if fast {
				given = via
			}
			sock, err := h.ReplaceSocket(t.Context(), old, theirs, given)
			if err != nil {
				t.Fatalf("round %d: %v\n%s", round, err, describe(a.in.PID()))
			}
			if !h.HoldsSocket(sock) || h.HoldsSocket(engine.Socket{Inode: old, FD: sock.FD}) {
				t.Fatalf("round %d: descriptor %d is not the new socket", round, sock.FD)
			}
			if err := errors.Join(unix.Close(theirs), unix.Close(via)); err != nil {
				t.Fatal(err)
			}
			a.ends[sock.Inode] = id + engine.ConnID(round) + 1
			if round == 5 { // the socket is part of the state
				img := a.checkpoint()
				b := a.sub.branch(img, id)
				b.activate()
				b.verify(id)
				b.kill()
			}
			a.activate()
			if early {
				if line, err := c.receive(patience); err != nil || line != fmt.Sprint(a.sum) {
					t.Fatalf("round %d: reply %q to the request that was there before: %v\n%s", round, line, err, describe(a.in.PID()))
				}
			}
			for range 3 {
				c.mutate(1)
				a.sum++
				a.park()
				a.activate()
			}
			c.consistent(a.sum)
			c.close()
			if !eventually(func() bool { return !h.HoldsSocket(sock) }) {
				t.Fatalf("round %d: the service does not notice that the app has gone", round)
			}
			if _, err := h.DuplicateSocket(sock); !errors.Is(err, engine.ErrNoSocket) {
				t.Errorf("round %d: a socket that was closed: %v", round, err)
			}
			delete(a.ends, sock.Inode)
		}
		a.verify(id)
	}
}

func drain(t *testing.T, fd int, want string) {
	t.Helper()
	var got []byte
	if !eventually(func() bool {
		b := make([]byte, 64)
		n, _ := unix.Read(fd, b)
		got = append(got, b[:max(n, 0)]...)
		return string(got) == want+"\n"
	}) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// refuseSocket asserts what is refused, and that nothing has changed then; and that an instance that has died still has its
// sockets.
func (s *suite) refuseSocket(t *testing.T) {
	a, id := s.serving(t, "loop-epoll-lt")
	h, ok := a.holder()
	if !ok {
		return
	}
	c, theirs := outside(t)
	via, old := a.raw()
	if _, err := h.ReplaceSocket(t.Context(), old, theirs, via); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("an instance that runs: %v", err)
	}
	a.park()
	if _, err := h.ReplaceSocket(t.Context(), 1, theirs, via); !errors.Is(err, engine.ErrNoSocket) {
		t.Errorf("a socket that is not there: %v", err)
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if _, err := h.ReplaceSocket(t.Context(), old, p[0], via); !errors.Is(err, engine.ErrRefused) {
		t.Errorf("a packet socket: %v", err)
	}
	if _, err := unix.Write(via, []byte("get\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReplaceSocket(t.Context(), old, theirs, via); !errors.Is(err, engine.ErrBusy) {
		t.Errorf("with bytes unread: %v", err)
	}
	a.activate()
	drain(t, via, fmt.Sprint(a.sum))
	a.park()
	sock, err := h.ReplaceSocket(t.Context(), old, theirs, via)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(via)
	_ = unix.Close(theirs)
	list, err := h.ListenerSockets()
	if err != nil || len(list) != 2 || !h.HoldsSocket(list[0]) || list[1].Listener != 1 {
		t.Errorf("listeners: %v, %v", list, err)
	}
	accepted, err := h.AcceptedSockets() // the new one comes from a pair, which has no names
	if err != nil || len(accepted) != 1 || accepted[0].Listener != 0 || a.ends[accepted[0].Inode] != id {
		t.Errorf("accepted: %v, %v, want %v", accepted, err, a.ends)
	}
	c.send("get")
	if err := unix.PidfdSendSignal(h.PIDFD(), unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	dead := []unix.PollFd{{Fd: int32(h.PIDFD()), Events: unix.POLLIN}}
	if !eventually(func() bool { n, _ := unix.Poll(dead, 0); return n == 1 }) {
		t.Fatal("it does not die")
	}
	fd, err := h.DuplicateSocket(sock)
	if err != nil {
		t.Fatalf("a socket of a dead instance: %v", err)
	}
	b := make([]byte, 16)
	if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "get\n" {
		t.Errorf("what nobody had read: %q, %v", b[:max(n, 0)], err)
	}
	if _, err := unix.Write(fd, []byte("late\n")); err != nil {
		t.Error(err)
	}
	if line, err := c.receive(patience); err != nil || line != "late" {
		t.Errorf("%q, %v", line, err)
	}
	_ = unix.Close(fd)
	a.kill()
	c.expectEnd()
}
