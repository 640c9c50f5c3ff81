package enginetest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream is what net.Conn and a non-blocking os.File have in common.
type stream interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
}

// conn is a client's end of a connection that speaks the line protocol of programs/svc.h.
type conn struct {
	t    *testing.T
	nc   stream
	pid  int // of the instance at the other end, for messages; 0: unknown
	rest []byte
	// wake makes an instance run that is to run, as far as the test has said, and that an exclusive engine has made
	// dormant for another one; nil: nothing to do.
	wake func()
}

func (c *conn) awake() {
	c.t.Helper()
	if c.wake != nil {
		c.wake()
	}
}

// adopted makes a conn of a descriptor that an engine has returned, and checks what the contract says about it.
func adopted(t *testing.T, fd, pid int) *conn {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatalf("descriptor %d of the engine: %v", fd, err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		t.Errorf("descriptor %d of the engine is not non-blocking", fd)
	}
	if flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor %d of the engine is not close-on-exec (%v)", fd, err)
	}
	c := &conn{t: t, nc: os.NewFile(uintptr(fd), "connection"), pid: pid}
	t.Cleanup(c.close)
	return c
}

func (c *conn) close() {
	if err := c.nc.Close(); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
		c.t.Errorf("close: %v", err)
	}
}

func (c *conn) send(line string) {
	c.t.Helper()
	c.awake()
	if _, err := c.nc.Write([]byte(line + "\n")); err != nil {
		c.t.Fatalf("request %q: %v\n%s", line, err, describe(c.pid))
	}
}

// receive reads one reply line. The error is os.ErrDeadlineExceeded if there is none within limit.
func (c *conn) receive(limit time.Duration) (string, error) {
	c.awake()
	if err := c.nc.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	for {
		if line, rest, ok := bytes.Cut(c.rest, []byte("\n")); ok {
			c.rest = rest
			return string(line), nil
		}
		n, err := c.nc.Read(buf)
		if n == 0 && err != nil {
			return "", err
		}
		c.rest = append(c.rest, buf[:n]...)
	}
}

// ask sends a request and returns the reply.
func (c *conn) ask(line string) string {
	c.t.Helper()
	c.send(line)
	reply, err := c.receive(patience)
	if err != nil {
		c.t.Fatalf("request %q: %v\n%s", line, err, describe(c.pid))
	}
	return reply
}

func (c *conn) number(line string) uint64 {
	c.t.Helper()
	reply := c.ask(line)
	n, err := strconv.ParseUint(reply, 10, 64)
	if err != nil {
		c.t.Fatalf("request %q: reply %q", line, reply)
	}
	return n
}

func (c *conn) mutate(n uint64) {
	c.t.Helper()
	if reply := c.ask("mutate " + strconv.FormatUint(n, 10)); reply != "ok" {
		c.t.Fatalf("mutate %d: %s", n, reply)
	}
}

// verify is consistent, and that no call of the service has ever been interrupted.
func (c *conn) verify(sum uint64) {
	c.t.Helper()
	c.consistent(sum)
	if n := c.number("eintr"); n != 0 {
		c.t.Fatalf("%d calls returned EINTR", n)
	}
}

// consistent has the service check itself, and compares the sum.
func (c *conn) consistent(sum uint64) {
	c.t.Helper()
	if got := c.number("get"); got != sum {
		c.t.Fatalf("the state holds %d, want %d", got, sum)
	}
	reply := c.ask("verify")
	if reply != "ok" && !strings.HasPrefix(reply, "ok ") {
		c.t.Fatalf("verify: %s", reply)
	}
}

// expectEnd fails unless the peer has closed the connection.
func (c *conn) expectEnd() {
	c.t.Helper()
	if line, err := c.receive(patience); err == nil {
		c.t.Fatalf("reply %q on a connection that should be closed", line)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the connection is still open\n%s", describe(c.pid))
	}
}
