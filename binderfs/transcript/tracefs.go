package transcript

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoTracing says that the kernel's tracing cannot be had here.
	ErrNoTracing = errors.New("there is no tracefs; way out: mount -t tracefs tracefs /sys/kernel/tracing, as root")
	// ErrNoEvents says that the Binder driver has no tracepoints here.
	ErrNoEvents = errors.New("the kernel has no tracepoints of Binder; way out: load the Binder driver, on a kernel with CONFIG_TRACEPOINTS")
	// ErrGone says that the process that was watched has ended.
	ErrGone = errors.New("the process has ended")
)

// roots are where tracefs may be.
var roots = []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}

// events are the tracepoints that are needed, and whether a driver may lack them.
var events = map[string]bool{
	"binder_transaction": false, "binder_transaction_alloc_buf": false, "binder_transaction_received": false,
	"binder_transaction_failed_buffer_release": false, "binder_txn_latency_free": true,
}

// Follow calls f for each transaction to or from the process pid, a number of the initial pid namespace, in the order in
// which they end. It returns nil when ctx is done, ErrGone when the process has ended, or the error of f. The kernel's
// tracing is used by a buffer of its own, which is removed.
func Follow(ctx context.Context, pid int, f func(*Transaction) error) (err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	defer func() { _ = unix.Close(pidfd) }()
	buffer, err := openBuffer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, buffer.remove()) }()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	pipe, err := buffer.begin()
	if err != nil {
		return err
	}
	defer func() { _ = pipe.Close() }() // closed below when the wait is over
	stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(past) })
	defer stop()
	go func() {
		if awaitDeath(ctx, pidfd) {
			end(ErrGone)
		}
	}()
	return follow(ctx, pid, pipe, f)
}

func follow(ctx context.Context, pid int, pipe *os.File, f func(*Transaction) error) error {
	var failure error
	p := newPairer(pid, effectiveUID, func(tid int) bool { return isThread(pid, tid) }, func(t *Transaction) {
		if failure == nil {
			failure = f(t)
		}
	})
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		if e, ok := parseEvent(lines.Text()); ok {
			p.add(&e)
		}
		if failure != nil {
			return failure
		}
	}
	switch err := lines.Err(); {
	case errors.Is(context.Cause(ctx), ErrGone):
		return fmt.Errorf("process %d: %w", pid, ErrGone)
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("read the kernel's trace: %w", err)
	}
	return errors.New("the kernel's trace has ended")
}

func awaitDeath(ctx context.Context, pidfd int) bool {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}

// effectiveUID asks who a thread is; -1 if it has ended.
func effectiveUID(tid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Uid:" {
			if uid, err := strconv.Atoi(f[2]); err == nil {
				return uid
			}
		}
	}
	return -1
}

func isThread(pid, tid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, tid))
	return err == nil
}

// buffer is an instance of the kernel's tracing.
type buffer struct{ dir string }

func openBuffer() (*buffer, error) {
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, "instances")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, "events/binder/binder_transaction")); err != nil {
			return nil, ErrNoEvents
		}
		dir, err := os.MkdirTemp(filepath.Join(root, "instances"), "corsa-")
		if err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
		return &buffer{dir}, nil
	}
	return nil, ErrNoTracing
}

// begin lets the events come, all at the same moment. The pipe has to be closed before the buffer is removed.
func (b *buffer) begin() (*os.File, error) {
	if err := errors.Join(b.write("tracing_on", "0"), b.write("trace_clock", "mono")); err != nil {
		return nil, err
	}
	pipe, err := openPipe(filepath.Join(b.dir, "trace_pipe"))
	if err != nil {
		return nil, err
	}
	for name, optional := range events {
		err := b.write("events/binder/"+name+"/enable", "1")
		if optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, pipe.Close())
		}
	}
	if err := b.write("tracing_on", "1"); err != nil {
		return nil, errors.Join(err, pipe.Close())
	}
	return pipe, nil
}

func (b *buffer) write(name, value string) error {
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(value), 0); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

// remove ends the tracing. The kernel removes what is in the directory with it.
func (b *buffer) remove() error {
	if err := unix.Rmdir(b.dir); err != nil {
		return fmt.Errorf("tracing: remove %s: %w", b.dir, err)
	}
	return nil
}
