package socket

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// service is the state of the tests' service: a counter. Every request runs under the read side of gate, which Park
// takes for writing: a dormant service handles nothing, though bytes may wait in its buffers.
type service struct {
	gate  sync.RWMutex
	mu    sync.Mutex
	count int
	goes  chan struct{}
}

func serve() {
	s := &service{goes: make(chan struct{})}
	s.gate.Lock() // it begins dormant
	network, addr := "unix", os.Getenv("SOCKET_TEST_SERVICE")
	if os.Getenv("SOCKET_TEST_TCP") != "" {
		network, addr = "tcp", "127.0.0.1:0"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	control := os.NewFile(3, "control")
	fmt.Fprintln(control, l.Addr())
	plumbed, _ := strconv.Atoi(os.Getenv("PLUMBED"))
	for i := range plumbed {
		f := os.NewFile(uintptr(4+i), "plumbed")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go s.talk(c)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.talk(c)
		}
	}()
	s.obey(control)
}

// obey parks and wakes the service.
func (s *service) obey(control *os.File) {
	for r := bufio.NewReader(control); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		limit, parking := strings.CutPrefix(strings.TrimSpace(line), "park ")
		if !parking {
			s.gate.Unlock()
			fmt.Fprintln(control, "ok")
			continue
		}
		d, _ := time.ParseDuration(limit)
		answer := "busy"
		for end := time.Now().Add(d); ; time.Sleep(20 * time.Microsecond) {
			if s.gate.TryLock() {
				answer = "ok"
				break
			}
			if d > 0 && time.Now().After(end) {
				break
			}
		}
		fmt.Fprintln(control, answer)
	}
}

// conn reads lines from a socket and keeps descriptors that come along.
type lineConn struct {
	net.Conn
	fds []int
}

func (c *lineConn) Read(p []byte) (int, error) {
	u, ok := c.Conn.(*net.UnixConn)
	if !ok {
		return c.Conn.Read(p)
	}
	oob := make([]byte, 1024)
	n, oobn, _, _, err := u.ReadMsgUnix(p, oob)
	if ms, e := unix.ParseSocketControlMessage(oob[:oobn]); e == nil {
		for i := range ms {
			if fds, e := unix.ParseUnixRights(&ms[i]); e == nil {
				c.fds = append(c.fds, fds...)
			}
		}
	}
	if n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

func (s *service) talk(nc net.Conn) {
	c := &lineConn{Conn: nc}
	defer nc.Close()
	r := bufio.NewReaderSize(c, 1<<16)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if err == io.EOF && line == "" {
				s.gate.RLock()
				fmt.Fprintln(nc, "bye") // seen by clients that only closed their sending side
				s.gate.RUnlock()
			}
			return
		}
		s.gate.RLock()
		s.handle(c, r, strings.Fields(line))
		s.gate.RUnlock()
	}
}

func (s *service) handle(c *lineConn, r *bufio.Reader, f []string) {
	if len(f) == 0 {
		return
	}
	arg := ""
	if len(f) > 1 {
		arg = f[1]
	}
	n, _ := strconv.Atoi(arg)
	switch f[0] {
	case "incr":
		s.mu.Lock()
		s.count++
		fmt.Fprintln(c, s.count)
		s.mu.Unlock()
	case "echo":
		fmt.Fprintln(c, arg)
	case "pid":
		fmt.Fprintln(c, os.Getpid())
	case "sleep":
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
		fmt.Fprintln(c, "slept")
	case "silent": // a request that is never answered
	case "crash":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		time.Sleep(time.Minute)
	case "crash-once": // only if the file exists
		if os.Remove(arg) == nil {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			time.Sleep(time.Minute)
		}
		fmt.Fprintln(c, "survived")
	case "touch":
		_ = os.WriteFile(arg, nil, 0o600)
	case "wait": // for another connection's go
		s.gate.RUnlock()
		<-s.goes
		s.gate.RLock()
		fmt.Fprintln(c, "waited")
	case "go":
		close(s.goes)
		fmt.Fprintln(c, "gone")
	case "half": // part of a reply, then death, at once or some time later
		_, _ = io.WriteString(c, "par")
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		time.Sleep(time.Minute)
	case "sink":
		var sum uint32
		for i := 0; i < n; i++ {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			sum = sum*31 + uint32(b)
		}
		fmt.Fprintln(c, sum)
	case "source":
		w := bufio.NewWriterSize(c, 1<<16)
		for i := range n {
			_ = w.WriteByte(byte(i * 7 >> 3))
		}
		_ = w.Flush()
	case "fds": // writes "hello" into every descriptor it has got, and gives back the first
		for _, fd := range c.fds {
			_, _ = unix.Write(fd, []byte("hello"))
		}
		u := c.Conn.(*net.UnixConn)
		if len(c.fds) == 0 {
			fmt.Fprintln(c, "none")
			return
		}
		_, _, _ = u.WriteMsgUnix([]byte(strconv.Itoa(len(c.fds))+"\n"), unix.UnixRights(c.fds[0]), nil)
		closeAll(c.fds)
		c.fds = nil
	case "close":
		fmt.Fprintln(c, "closing")
		_ = c.Close()
	}
}
