package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// conn is a client's socket. It goes around the Go scheduler, whose hand-offs would be part of the figures.
type conn struct {
	fd  int
	buf [4096]byte
}

// newConn takes fd over. Nothing waits longer than ten seconds on it.
func newConn(fd int) (*conn, error) {
	limit := unix.Timeval{Sec: 10}
	err := errors.Join(unix.SetNonblock(fd, false),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), unix.Close(fd))
	}
	return &conn{fd: fd}, nil
}

// dialPath connects to a service that may not listen yet.
func dialPath(ctx context.Context, path string) (*conn, error) {
	for {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			return newConn(fd)
		}
		_ = unix.Close(fd) // it never was connected
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("connect to %s: %w", path, err)
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", path, err)
		}
	}
}

func (c *conn) close() { _ = unix.Close(c.fd) } // nothing is buffered

func (c *conn) send(request []byte) error {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&request[0])), uintptr(len(request)))
	if e != 0 || int(n) != len(request) {
		return fmt.Errorf("send a request: %w", errno(e))
	}
	return nil
}

// receive reads a reply of n bytes into buf.
func (c *conn) receive(n int) error {
	for got := 0; got < n; {
		k, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&c.buf[got])), uintptr(len(c.buf)-got))
		if e == unix.EINTR {
			continue
		}
		if e != 0 || k == 0 {
			return fmt.Errorf("receive a reply: %w", errno(e))
		}
		got += int(k)
	}
	return nil
}

// errno is the error of a call that failed or did nothing.
func errno(e unix.Errno) error {
	switch e {
	case 0:
		return io.ErrUnexpectedEOF
	case unix.EAGAIN:
		return fmt.Errorf("no answer in ten seconds: %w", os.ErrDeadlineExceeded)
	}
	return e
}

func (c *conn) ask(request []byte, reply int) error {
	if err := c.send(request); err != nil {
		return err
	}
	return c.receive(reply)
}

// populate fills a redis-server.
func (c *conn) populate() error {
	if err := c.ask([]byte("DEBUG POPULATE 20000\r\n"), len("+OK\r\n")); err != nil {
		return err
	}
	if !bytes.HasPrefix(c.buf[:], []byte("+OK")) {
		line, _, _ := bytes.Cut(c.buf[:], []byte("\r"))
		return fmt.Errorf("DEBUG POPULATE: %s", line)
	}
	return nil
}
