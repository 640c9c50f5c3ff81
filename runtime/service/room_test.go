package service

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestRoomOfALimitedGroup(t *testing.T) {
	root := filepath.Join(cgroupRoot, "pids")
	if _, err := os.Stat(root); err != nil {
		root = cgroupRoot
	}
	dir, err := os.MkdirTemp(root, "corsa-test-")
	if err != nil {
		t.Skipf("no cgroups can be made here: %v", err)
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
		var err error
		for range 100 { // it takes a moment for the group to be empty
			if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
		for range 100 {
			if os.Remove(inner) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Skipf("cgroup: %v", err)
		}
	}
	write(filepath.Join(inner, "cgroup.procs"), strconv.Itoa(sleep.Process.Pid))
	limit := filepath.Join(dir, "pids.max")
	if _, err := os.Stat(limit); err != nil {
		t.Skipf("no pids controller: %v", err)
	}
	for text, want := range map[string]bool{"max": true, "4": true, "2": true, "1": false} {
		write(limit, text) // of the group above the process's own
		if got := hasRoom(sleep.Process.Pid); got != want {
			t.Errorf("limit %s: %v", text, got)
		}
	}
}
