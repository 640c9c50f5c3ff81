package check

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/check/holdertest"
)

var holderBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "check")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o711); err != nil { // other users run the holder too
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if holderBinary, err = holdertest.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// startHolder runs the holder and returns its pid once it holds the object. It ends with the test.
func startHolder(t *testing.T, attr *syscall.SysProcAttr, mode string, args ...string) int {
	t.Helper()
	cmd := exec.Command(holderBinary, append([]string{mode}, args...)...)
	cmd.SysProcAttr = attr
	return holdertest.Start(t, cmd)
}

// eventually tries until ok holds or a generous limit has passed.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not come about", what)
		}
	}
}

func inspect(t *testing.T, pid int, opts Options) *Report {
	t.Helper()
	report, err := Process(pid, opts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantBlockers asserts that the blockers are exactly those whose objects match the patterns, in any order, and that
// each has a reason and a way out.
func wantBlockers(t *testing.T, report *Report, patterns ...string) {
	t.Helper()
	left := map[int]string{}
	for i, b := range report.Blockers {
		left[i] = b.Object
		if b.Reason == "" || b.WayOut == "" {
			t.Errorf("%q has no reason or no way out", b.Object)
		}
	}
	for _, pattern := range patterns {
		found := false
		for i, object := range left {
			if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(object) {
				delete(left, i)
				found = true
				break
			}
		}
		if !found {
			t.Errorf("no blocker is %q; there are %v", pattern, report.Blockers)
		}
	}
	for _, object := range left {
		t.Errorf("unexpected blocker %q", object)
	}
}

func hasNote(report *Report, text string) bool {
	for _, note := range report.Notes {
		if strings.Contains(note.Object+": "+note.Text, text) {
			return true
		}
	}
	return false
}

func tempFile(t *testing.T) string {
	t.Helper()
	// d_path shows where links lead, so the expectation must not hold one.
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "data.db")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// listen opens a listener of the test itself, which stands for the world outside.
func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func port(t *testing.T, address net.Addr) string {
	t.Helper()
	_, p, err := net.SplitHostPort(address.String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func freePort(t *testing.T) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	defer l.Close()
	return port(t, l.Addr())
}

func mkfifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(tempFile(t)), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
