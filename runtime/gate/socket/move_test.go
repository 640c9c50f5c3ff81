package socket

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/spec"
)

func TestLargeBodies(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	const size = 64 << 20
	body := make([]byte, size)
	var sum uint32
	for i := range body {
		body[i] = byte(i * 13 >> 2)
		sum = sum*31 + uint32(body[i])
	}
	c := dial(t, "unix", addr)
	other := dial(t, "unix", addr)
	other.must("1", "incr")
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	go func() {
		_, _ = io.WriteString(c, "sink "+strconv.Itoa(size)+"\n")
		_, _ = c.Write(body)
	}()
	line, err := c.r.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != strconv.FormatUint(uint64(sum), 10) {
		t.Fatalf("request body: %q, %v; want %d", line, err, sum)
	}
	_, _ = io.WriteString(c, "source "+strconv.Itoa(size)+"\n")
	got := body
	for n := 0; n < size; { // slowly at first, so that the gate has to hold bytes back
		if n < 1<<20 {
			time.Sleep(time.Millisecond)
		}
		k, err := c.r.Read(got[n:min(n+1<<16, size)])
		if err != nil {
			t.Fatalf("reply body after %d bytes: %v", n, err)
		}
		n += k
	}
	for i := range got {
		if got[i] != byte(i*7>>3) {
			t.Fatalf("byte %d of the reply is wrong", i)
		}
	}
	other.must("2", "incr")
}

// A reader that stops in the middle of a reply does not keep others from their turns, and gets the rest later.
func TestSlowReaderAcrossSwitches(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	slow, quick := dial(t, "unix", addr), dial(t, "unix", addr)
	const size = 8 << 20
	_, _ = io.WriteString(slow, "source "+strconv.Itoa(size)+"\n")
	for i := range 20 {
		quick.must(strconv.Itoa(i+1), "incr")
	}
	_ = slow.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, size)
	if _, err := io.ReadFull(slow.r, b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if b[i] != byte(i*7>>3) {
			t.Fatalf("byte %d of the reply is wrong", i)
		}
	}
}

func TestHalfClose(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	c := dial(t, "unix", addr)
	_, _ = io.WriteString(c, "echo x\n")
	if err := c.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	all, err := io.ReadAll(c.r)
	if err != nil || string(all) != "x\nbye\n" {
		t.Errorf("%q, %v", all, err)
	}
	d := dial(t, "unix", addr)
	d.must("closing", "close")
	if _, err := d.r.ReadByte(); err != io.EOF {
		t.Errorf("the service closed, but the app sees %v", err)
	}
}

func TestDescriptorsInFlight(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	c := dial(t, "unix", addr)
	u := c.Conn.(*net.UnixConn)
	for round := range 3 { // with plain bytes before the message that carries them
		r, wr, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "echo before\n")
		if _, _, err := u.WriteMsgUnix([]byte("fds\n"), unix.UnixRights(int(wr.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		got, oob := make([]byte, 64), make([]byte, 64)
		text, rights := "", 0
		for text != "before\n1\n" {
			n, oobn, _, _, err := u.ReadMsgUnix(got, oob)
			if err != nil || n == 0 {
				t.Fatalf("round %d: %q, %v", round, text, err)
			}
			text += string(got[:n])
			ms, _ := syscall.ParseSocketControlMessage(oob[:oobn])
			for i := range ms {
				fds, _ := syscall.ParseUnixRights(&ms[i])
				rights += len(fds)
				closeAll(fds)
			}
		}
		_ = wr.Close()
		_ = r.SetDeadline(time.Now().Add(10 * time.Second))
		said, err := io.ReadAll(r) // ends only if nobody has kept the other end
		_ = r.Close()
		if string(said) != "hello" || err != nil || rights != 1 {
			t.Errorf("round %d: %q through the pipe, %v; %d descriptors came back", round, said, err, rights)
		}
	}
}

// The place of descriptors in the stream is kept even if plain bytes lie before them.
func TestDescriptorsKeepTheirPlace(t *testing.T) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(p[:])
	for _, s := range []string{"plain", "more"} {
		_, _ = unix.Write(p[0], []byte(s))
	}
	if err := unix.Sendmsg(p[0], []byte("with"), unix.UnixRights(0, 1), nil, 0); err != nil {
		t.Fatal(err)
	}
	_, _ = unix.Write(p[0], []byte("after"))
	var (
		v  envelope
		st stash
	)
	b := make([]byte, 100)
	want := []struct {
		text string
		fds  int
	}{{"plainmore", 0}, {"with", 2}, {"after", 0}}
	for _, x := range want {
		n, e := v.receiveApart(p[1], b, &st)
		if e != 0 {
			t.Fatal(e)
		}
		if string(b[:n]) != x.text || len(v.fds) != x.fds {
			t.Errorf("%q with %d descriptors; want %q with %d", b[:n], len(v.fds), x.text, x.fds)
		}
		closeAll(v.fds)
	}
}

// Clients that vanish in the middle of a request leave nothing behind and disturb nobody.
func TestVanishingClients(t *testing.T) {
	w := newWorld(t)
	s := declare(t.TempDir())
	s.AppKey = spec.AppKeyUID
	g, addr := w.open(s)
	steady := dial(t, "unix", addr)
	for i := range 50 {
		c := dial(t, "unix", addr)
		switch i % 4 {
		case 0:
			_, _ = io.WriteString(c, "echo half-a-requ")
		case 1:
			_, _ = io.WriteString(c, "source 5000000\n")
		case 2:
			_, _ = io.WriteString(c, "incr\n")
		}
		_ = c.Close()
		steady.must("y", "echo y")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := g.Stats()[0].Connections
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are still open", n)
		}
	}
}

// A flood of connections of one app neither breaks nor starves another.
func TestFlood(t *testing.T) {
	w := newWorld(t)
	s := declare(t.TempDir())
	s.AppKey = spec.AppKeyUID
	_, addr := w.open(s, func(c *Config) { c.MaxConns, c.MaxConnsPerApp = 400, 300 })
	steady := dial(t, "unix", addr)
	steady.must("0", "echo 0")
	var open, refused int
	for range 500 {
		c, err := net.Dial("unix", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "echo z\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && line == "z\n" {
			open++
		} else {
			refused++
		}
	}
	if open != 299 || refused != 201 {
		t.Errorf("%d served, %d refused; the limit is 300 with the first", open, refused)
	}
	steady.must("1", "echo 1")
}

func TestTCP(t *testing.T) {
	w := newWorld(t)
	w.tcp = true
	s := declare(t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Endpoints = []spec.Endpoint{{Network: "tcp", Address: l.Addr().String()}}
	s.AppKey = spec.AppKeyUID
	_ = l.Close()
	g, addr := w.open(s)
	c, d := dial(t, "tcp", addr), dial(t, "tcp", addr)
	c.must("1", "incr")
	d.must("2", "incr")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, _ := io.ReadAll(c.r); string(all) != "bye\n" {
		t.Errorf("after half-close: %q", all)
	}
	if app := g.Stats()[0].App; string(app) != "uid:"+strconv.Itoa(os.Getuid()) {
		t.Errorf("the app is %q", app)
	}
}

// The public name is taken over without ever disappearing, and given back to a service that still listens.
func TestTakeover(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "public.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Lstat(path)
	ep := &endpoint{network: "unix", address: path, fd: -1}
	if err := ep.listen(); err != nil {
		t.Fatal(err)
	}
	during, _ := os.Lstat(path)
	if os.SameFile(before, during) || during.Mode().Perm() != 0o622 {
		t.Errorf("public socket: same file %v, mode %v", os.SameFile(before, during), during.Mode())
	}
	second := &endpoint{network: "unix", address: path, fd: -1}
	if err := second.listen(); err == nil {
		t.Error("a second gate took the path over")
	}
	if err := ep.close(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Lstat(path); !os.SameFile(before, after) {
		t.Error("the service's socket was not put back")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	_ = l.Close()
	_ = os.WriteFile(path, nil, 0o600)
	if err := (&endpoint{network: "unix", address: path, fd: -1}).listen(); err == nil {
		t.Error("a regular file was replaced")
	}
}
