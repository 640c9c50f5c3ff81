package binder

import (
	"os/exec"
	"testing"
)

// endsWith starts a process that ends when the channel is closed, or with the test, and returns its pid.
func endsWith(t *testing.T, done <-chan struct{}) int {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		_ = cmd.Wait() // how it ended does not matter
	}()
	go func() {
		select {
		case <-done:
		case <-t.Context().Done():
		}
		_ = in.Close()
	}()
	t.Cleanup(func() { <-reaped })
	return cmd.Process.Pid
}
