package enginetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// A test binary that panics, times out or is killed runs no cleanups, and parked instances would stay for ever. So a
// second process of the test binary waits for the end of the first, and ends what was started below its directory.
const reaperEnv = "CORSA_ENGINETEST_REAPER"

func isReaper() bool { return os.Getenv(reaperEnv) != "" }

// runReaper returns when the test binary that started it is dead and its services are, too.
func runReaper(t *testing.T) {
	root := os.Getenv(reaperEnv)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Errorf("waiting for the end of the test: %v", err)
	}
	if !eventually(func() bool { return killBelow(root) == 0 }) {
		t.Errorf("processes below %s do not end", root)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Error(err)
	}
}

// killBelow kills the processes whose executable is below root, and says how many there were.
func killBelow(root string) int {
	killed := 0
	for pid, exe := range executables() {
		if strings.HasPrefix(exe, root+"/") {
			killed++
			// One that has ended meanwhile is not there in the next round.
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return killed
}

// startReaper starts the reaper for root. It is in a session of its own, so that it outlives an interrupt.
func startReaper(t *testing.T, root string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=0")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", reaperEnv, root))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	life, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(life.Close(), cmd.Wait()); err != nil {
			t.Errorf("reaper: %v", err)
		}
	})
}
