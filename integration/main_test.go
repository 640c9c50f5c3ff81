// Package integration tests the built binary from outside, with real programs in real containers.
package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// corsaBin is the binary under test: $CORSA_BIN, or one that TestMain has built.
var corsaBin string

// deadline is how long a test waits for something that has to happen at once. Reaching it is a failure, never a
// measurement.
const deadline = 30 * time.Second

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	if corsaBin = os.Getenv("CORSA_BIN"); corsaBin != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "corsa-integration-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	corsaBin = filepath.Join(dir, "corsa")
	if out, err := exec.Command("go", "build", "-tags", "seccomp", "-o", corsaBin, "..").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build corsa: %w\n%s", err, out)
	}
	// Which this binary is too far away from to find.
	criu, err := filepath.Abs("../build/criu/bin/criu")
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(criu); err == nil && os.Getenv("CORSA_CRIU") == "" {
		if err := os.Setenv("CORSA_CRIU", criu); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// corsa is the binary with a state root of the test's own.
type corsa struct {
	t    *testing.T
	root string
}

// newCorsa makes a state root. At the end of the test every container in it is deleted, and it must be empty then.
func newCorsa(t *testing.T) *corsa {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers with a cgroup")
	}
	c := &corsa{t: t, root: filepath.Join(t.TempDir(), "root")}
	t.Cleanup(func() {
		for id := range strings.FieldsSeq(c.ok("list", "-q")) {
			c.ok("delete", "--force", id)
		}
		left, err := os.ReadDir(c.root)
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			t.Errorf("left in the state root: %v, %v", left, err)
		}
	})
	return c
}

// command is corsa with args, ready to run.
func (c *corsa) command(args ...string) *exec.Cmd {
	cmd := exec.Command(corsaBin, append([]string{"--root", c.root}, args...)...)
	// A container that lives on holds the standard streams of create.
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs corsa to its end.
func (c *corsa) run(stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	cmd := c.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// ok runs corsa, which must succeed, and returns its standard output.
func (c *corsa) ok(args ...string) string {
	c.t.Helper()
	stdout, stderr, code := c.run("", args...)
	if code != 0 {
		c.t.Fatalf("corsa %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// fails runs corsa, which must exit with code and say want on standard error.
func (c *corsa) fails(code int, want string, args ...string) {
	c.t.Helper()
	stdout, stderr, got := c.run("", args...)
	if got != code || !strings.Contains(stderr, want) {
		c.t.Errorf("corsa %s: exit code %d, want %d; stderr %q should contain %q; stdout %q",
			strings.Join(args, " "), got, code, stderr, want, stdout)
	}
}

// eventually waits for cond.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not reached: %s", what)
		}
	}
}
