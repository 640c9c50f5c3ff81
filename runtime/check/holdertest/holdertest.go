// Package holdertest is for tests of what a process may hold: it builds and runs a small program that gets hold of one
// kernel object and keeps it.
package holdertest

import (
	"bufio"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed program/holder.c
var source []byte

// Build compiles the program into the directory dir and returns its path. Its first argument says what to hold; see
// program/holder.c. It needs gcc and libc6-dev.
func Build(dir string) (string, error) {
	c, binary := filepath.Join(dir, "holder.c"), filepath.Join(dir, "holder")
	if err := os.WriteFile(c, source, 0o644); err != nil {
		return "", err
	}
	out, err := exec.Command("gcc", "-O1", "-Wall", "-pthread", "-o", binary, c, "-lrt").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build holder.c (gcc and libc6-dev are needed): %w\n%s", err, out)
	}
	return binary, nil
}

// Start runs cmd until the end of the test and returns its pid once it has printed the line "ready". The test is skipped
// if it says that this kernel does not give the object out.
func Start(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
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
	t.Cleanup(func() {
		_ = stdin.Close()      // it may have ended
		_ = cmd.Process.Kill() // likewise
		_ = cmd.Wait()         // it was killed: its status says nothing
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if reason, ok := strings.CutPrefix(strings.TrimSpace(line), "skip: "); ok {
		t.Skip("this kernel does not give it out: " + reason)
	}
	if strings.TrimSpace(line) != "ready" {
		t.Fatalf("%v said %q (%v), not ready", cmd.Args, line, err)
	}
	return cmd.Process.Pid
}
