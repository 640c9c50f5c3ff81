package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal. Reads of master end at the deadline.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { _ = master.Close() }) // a test may have closed it
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	if err := master.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// expect reads until want has come, and returns all that has.
func expect(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	var got strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(got.String(), want) {
		n, err := r.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v after %q", want, err, got.String())
		}
	}
	return got.String()
}

func send(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestRunAndExecInTheForegroundOfATerminal(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	// A prompt that the echo of what is typed does not contain.
	const script = `tty; stty size; trap 'echo I''NT' INT; while read x; do eval "$x"; done; exit 6`
	dir := busyboxBundle(t, c, func(s *specs.Spec) { s.Process.Terminal = true }, "sh", "-c", script)

	inTerminal := func(args ...string) {
		t.Helper()
		master, slave := openTerminal(t)
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
			t.Fatal(err)
		}
		before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		cmd := c.command(args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(deadline, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		expect(t, master, "/dev/")
		send(t, master, "stty size\r")
		expect(t, master, "33 77")
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 88}); err != nil {
			t.Fatal(err)
		}
		// SIGWINCH goes its way meanwhile; how long that takes is not known.
		for !strings.Contains(func() string { send(t, master, "stty size; echo en''d\r"); return expect(t, master, "end\r\n") }(), "44 88") {
			time.Sleep(time.Millisecond)
		}
		send(t, master, "\x03") // the interrupt character reaches the container's terminal, not corsa
		expect(t, master, "INT")
		send(t, master, "exit 6\r")
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 6 {
			t.Errorf("%s: exit code %d, %v", args[0], cmd.ProcessState.ExitCode(), err)
		}
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("%s: mode of the terminal was not restored: %+v, %v; was %+v", args[0], after, err, before)
		}
	}
	inTerminal("run", "-b", dir, id)

	editSpec(t, dir, func(s *specs.Spec) { s.Process.Terminal = false; s.Process.Args = []string{"sleep", "1000"} })
	c.ok("run", "-d", "-b", dir, id)
	inTerminal("exec", "--tty", id, "sh", "-c", script)
}

// receiveFile takes a descriptor that is sent over a connection to l.
func receiveFile(t *testing.T, l *net.UnixListener) *os.File {
	t.Helper()
	if err := l.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "console")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConsoleSocketReceivesTheTerminal(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Height: 21, Width: 55}
	}, "sh", "-c", "tty; stty size; read x; echo got $x; sleep 1000")
	socket := filepath.Join(t.TempDir(), "console.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	c.ok("create", "-b", dir, "--console-socket", socket, id)
	console := receiveFile(t, l)
	c.ok("start", id)
	expect(t, console, "21 55")
	send(t, console, "hello\n")
	expect(t, console, "got hello")

	c.ok("exec", "--detach", "--tty", "--console-socket", socket, id, "sh", "-c", "tty && echo exe''cuted; sleep 1000")
	expect(t, receiveFile(t, l), "executed")
	c.fails(255, "--console-socket", "exec", "--detach", "--console-socket", socket, id, "true")
	c.fails(255, "--console-socket", "exec", "--tty", "--console-socket", socket, id, "true")
}
