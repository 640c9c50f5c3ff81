package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// printer is a service that prints what it is asked.
const printer = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
s.listen(8)
print("up", flush=True)
print("warned", file=sys.stderr, flush=True)
while True:
    c, _ = s.accept()
    while (d := c.recv(1000)):
        print(d.split()[-1].decode(), flush=True)
        c.sendall(b"+OK\r\n")
`

// printing is a serve command of that service, attached.
func printing(t *testing.T) (s *served, args []string) {
	needs(t, "python3")
	dir := publicDir(t)
	s = &served{corsa: newCorsa(t), id: "printer", socket: filepath.Join(dir, "s")}
	return s, []string{"serve", "--id", s.id, "--socket", s.socket, "--", "python3", "-c", printer, s.socket}
}

func (s *served) answers() bool {
	conn, err := dialAs(0, s.socket)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func TestServeShowsWhatTheProgramPrints(t *testing.T) {
	s, args := printing(t)
	path := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := errors.Join(cmd.Start(), out.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed
	eventually(t, "the service answers", s.answers)
	s.app(2001).expect("+OK", "echo", "from-2001")
	s.app(2002).expect("+OK", "echo", "from-2002")
	eventually(t, "the file has it all", func() bool {
		text, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(text), "up\nwarned\n") && strings.Contains(string(text), "from-2001\n") &&
			strings.Contains(string(text), "from-2002\n")
	})
	if err := errors.Join(cmd.Process.Signal(unix.SIGINT), cmd.Wait()); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if found := s.traces(); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
}

func TestServeEndsWhenNobodyReadsItsOutput(t *testing.T) {
	s, args := printing(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := s.command(args...)
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, "the service answers", s.answers)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// The service prints first and replies then: by that time it may have been ended.
	if got, err := s.app(2001).ask("echo", "lost"); err == nil && got != "+OK" {
		t.Errorf("the service replies %q", got)
	}
	_ = cmd.Wait() // the state tells
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.ExitStatus() != 1 || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("%v: %s", cmd.ProcessState, &stderr)
	}
	if found := s.traces(); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
}

// A disk that is full does not end a service.
func TestServeGoesOnWhenItCannotShowOutput(t *testing.T) {
	s, args := printing(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := s.command(args...)
	cmd.Stdout, cmd.Stderr = full, &stderr
	if err := errors.Join(cmd.Start(), full.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, "the service answers", s.answers)
	s.app(2001).expect("+OK", "echo", "kept")
	log := filepath.Join(s.root, s.id, "service.log")
	eventually(t, "it is in service.log", func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), "kept\n")
	})
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the text tells
	if !strings.Contains(stderr.String(), "no space left") || !strings.Contains(stderr.String(), log) {
		t.Errorf("stderr: %s", &stderr)
	}
}
