package services

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// start runs s directly and waits until it counts. The returned process is killed at the end of the test.
func start(t *testing.T, s Service) (socket string, cmd *exec.Cmd, ended chan error) {
	t.Helper()
	if missing := s.Missing(); missing != "" {
		t.Fatal(missing)
	}
	dir, err := os.MkdirTemp("", "corsa-services-") // short enough for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	scratch := filepath.Join(dir, "scratch")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "public.sock")
	argv, err := s.Command(dir, scratch, socket)
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have crashed, as it was told
		<-done
		if t.Failed() {
			t.Logf("%q:\n%s", argv, output.String())
		}
	})
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket, cmd, ended
		}
	}
	t.Fatalf("%s does not listen", s.Name)
	return "", nil, nil
}

func dial(t *testing.T, s Service, socket string) Counter {
	t.Helper()
	// The path appears at bind, a moment before listen.
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := s.Dial(socket)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Without corsa all clients of a service share one count: the counterpart of what the integration tests assert.
func TestCountsTogether(t *testing.T) {
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			socket, _, _ := start(t, s)
			a := dial(t, s, socket)
			first, err := a.Add()
			if err != nil {
				t.Fatal(err)
			}
			for i := uint64(1); i <= 3; i++ {
				if n, err := a.Add(); err != nil || n != first+i {
					t.Fatalf("the service counts %d: %v, want %d", n, err, first+i)
				}
			}
			if !s.Concurrent {
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := dial(t, s, socket).Add(); err != nil || n != first+4 {
				t.Fatalf("a second client is told %d: %v, want %d", n, err, first+4)
			}
		})
	}
}

func TestCrash(t *testing.T) {
	for _, s := range All() {
		if s.Crash == nil {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			socket, cmd, ended := start(t, s)
			if err := dial(t, s, socket).Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.Crash(socket); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				t.Log(err)
			case <-time.After(patience):
				t.Fatal("the service lives on")
			}
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if s.CrashCode != 0 && status.ExitStatus() != s.CrashCode {
				t.Errorf("the service died by %v, want status %d", cmd.ProcessState, s.CrashCode)
			}
			if s.CrashCode == 0 && status.Signal() != syscall.SIGSEGV {
				t.Errorf("the service died by %v, want SIGSEGV", cmd.ProcessState)
			}
		})
	}
}
