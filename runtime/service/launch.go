package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of a monitor and its supervisor.
const (
	readyFD  = 3 // write end of the pipe on which the starter waits
	outputFD = 4 // read end of the service's standard output
)

// abandonLimit is how long an interrupted Launch waits for the monitor to clean up.
const abandonLimit = 15 * time.Second

// Ref names a service, and how to start its monitor.
type Ref struct {
	Root string // absolute state root
	ID   string
	// Command is corsa's executable and the global flags that its monitor is to have, --root among them.
	Command []string
}

func (r Ref) layout() layout { return layout{root: r.Root, id: r.ID} }

// readiness is what a monitor tells its starter.
type readiness struct {
	PID   int          `json:"pid,omitempty"`
	Error *remoteError `json:"error,omitempty"`
}

const codeLocked = "locked"

// Launch starts a supervisor, and by it the monitor, of the sandbox r.ID, whose bundle declares a service and whose
// program has been started. It returns once the service can be used. output is the read end of the program's standard
// output, or nil if that goes elsewhere; the caller keeps it. On error no monitor is left and the sandbox is still
// there, not virtualised: it is the caller's to delete.
func Launch(ctx context.Context, r Ref, output *os.File) error {
	return launch(ctx, r, output, false)
}

func launch(ctx context.Context, r Ref, output *os.File, takeOver bool) error {
	l := r.layout()
	log, err := os.OpenFile(l.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("monitor log: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := monitorCommand(r, theirs, output, takeOver, false)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start the monitor of %q: %w", r.ID, err)
	}
	answer := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(ready) // what was read before an error tells as much
		answer <- data
	}()
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		_ = cmd.Wait() // the answer tells
	}()
	select {
	case data := <-answer:
		err = parseReadiness(r, data)
	case <-ctx.Done():
		_ = cmd.Process.Signal(unix.SIGTERM)
		err = fmt.Errorf("service %q: start: %w", r.ID, context.Cause(ctx))
	}
	if err == nil {
		return nil
	}
	// It is about to end, and nothing is to be left.
	select {
	case <-reaped:
	case <-time.After(abandonLimit):
		_ = cmd.Process.Kill()
		<-reaped
	}
	return err
}

func parseReadiness(r Ref, data []byte) error {
	var got readiness
	if err := json.Unmarshal(data, &got); err != nil {
		return fmt.Errorf("the monitor of %q ended before it was ready; its log ends with: %s",
			r.ID, lastLines(r.layout().log(), 5))
	}
	switch {
	case got.Error == nil:
		return nil
	case got.Error.Code == codeLocked:
		return fmt.Errorf("service %q: %w", r.ID, errLocked)
	}
	return fmt.Errorf("service %q: %w", r.ID, got.Error)
}

// monitorCommand is the command line of a supervisor, or of the worker that it supervises.
func monitorCommand(r Ref, ready, output *os.File, takeOver, worker bool) *exec.Cmd {
	args := append([]string{}, r.Command[1:]...)
	args = append(args, "monitor")
	if worker {
		args = append(args, "--worker")
	}
	if takeOver {
		args = append(args, "--recover")
	}
	if output != nil {
		args = append(args, "--output")
	}
	cmd := exec.Command(r.Command[0], append(args, r.ID)...)
	cmd.ExtraFiles = []*os.File{ready}
	if output != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, output)
	}
	return cmd
}

// ensure makes sure that the service has a living monitor: if the last one died it starts another. Several commands
// may do so at once; one of the monitors gets the lock and the others wait for it.
func ensure(ctx context.Context, r Ref) error {
	l := r.layout()
	if _, err := l.load(); err != nil {
		return err
	}
	k, err := l.tryLock()
	if errors.Is(err, errLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	// Let go again: the new monitor has to take it.
	if err := k.release(); err != nil {
		return err
	}
	if err := launch(ctx, r, nil, true); err != nil && !errors.Is(err, errLocked) {
		return fmt.Errorf("its monitor is dead and another cannot take over: %w", err)
	}
	return nil
}

// lastLines is the end of a text file, for an error message.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > 8192 {
		if _, err := f.Seek(-8192, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimRight(data, "\n")
	if len(data) == 0 {
		return "(" + filepath.Base(path) + " is empty)"
	}
	lines := strings.Split(string(data), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
