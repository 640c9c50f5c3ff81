// Package roletest helps tests that need several processes and a Binder device of their own.
package roletest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
)

// The driver does not let a process call a context manager of its own, and most of what matters happens between processes.
// So a test binary starts itself again in a role, which says "ready" when it is, and ends when its stdin does.

const variable = "CORSA_BINDER_TEST_ROLE"

// Roles are what a test binary can be besides itself. A role begins its work on a device and returns what ends it.
type Roles map[string]func(device string) (end func() error, err error)

// Main is the TestMain of a test binary with roles.
func Main(m *testing.M, roles Roles) {
	role, device, ok := strings.Cut(os.Getenv(variable), " ")
	if !ok {
		os.Exit(m.Run())
	}
	end, err := roles[role](device)
	if err == nil {
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
		err = errors.Join(err, end())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// Process is a test binary in a role.
type Process struct {
	PID   int
	cmd   *exec.Cmd
	stdin io.Closer
	ended bool
}

// Start starts the test binary in a role and waits until it is ready. The test fails if it does not end well.
func Start(t testing.TB, role, device string) *Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), variable+"="+role+" "+device)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{PID: cmd.Process.Pid, cmd: cmd, stdin: stdin}
	t.Cleanup(func() {
		if err := p.End(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s said %q, %v", role, line, err)
	}
	return p
}

// End has the process end by itself, unless it has ended.
func (p *Process) End() error {
	if p.ended {
		return nil
	}
	p.ended = true
	_ = p.stdin.Close()
	return p.cmd.Wait()
}

// Kill ends the process without a warning.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.ended = true
	if err := p.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.cmd.Wait() // says that it was killed
}

// Device returns the path of a new Binder device in a mount of its own. It skips the test where there is no binderfs.
func Device(t testing.TB) string {
	t.Helper()
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem {
		t.Skipf("binder: %s", s.Detail)
	}
	if unix.Geteuid() != 0 {
		t.Skip("root: mounting binderfs needs it")
	}
	fs, err := binderfs.Mount(t.TempDir(), binderfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	d, err := fs.AddDevice("binder")
	if err != nil {
		t.Fatal(err)
	}
	return d.Path
}

// Eventually waits a long time for what should come soon.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}
