package fork

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// A service that runs on while its engine is replaced opens and closes descriptors.
func TestLeftoversOfARunningService(t *testing.T) {
	memfd, err := unix.MemfdCreate("corsa", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memfd)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				done <- err
				return
			}
			unix.Close(fd)
		}
	}()
	for range 5_000 {
		fds, err := leftovers(os.Getpid())
		if err != nil {
			t.Error(err)
			break
		}
		if !slices.Contains(fds, memfd) {
			t.Errorf("%d is not among %v", memfd, fds)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Nobody waits for the agent of an instance that has died: that may have written over what it lives by.
func TestAgentOfTheDeadIsNotWaitedFor(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.base)
	if err := unix.Kill(e.in.a.PID, unix.SIGSTOP); err != nil { // as good as out of its mind
		t.Fatal(err)
	}
	if err := unix.Kill(e.in.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b := e.in.a.batch()
	b.call(unix.SYS_GETPID)
	if _, err := e.in.a.exec(ctx, b); !errors.Is(err, engine.ErrGone) {
		t.Errorf("got %v", err)
	}
	if err := ctx.Err(); err != nil {
		t.Error(err)
	}
}
