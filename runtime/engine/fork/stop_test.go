package fork

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

const sleepers = `
import threading, time
for _ in range(8):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
`

// startSleepers starts a process of several threads and returns it with a pidfd.
func startSleepers(t *testing.T) (pid, pidfd int) {
	t.Helper()
	cmd := exec.Command("python3", "-c", sleepers)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it was killed by the test
		if !t.Failed() {       // else nobody may ever learn of its death
			_ = cmd.Wait()
		}
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pidfd) })
	return cmd.Process.Pid, pidfd
}

// A process that is killed while its threads are being stopped is told to be gone by whoever waits for its leader, and then
// everybody learns of its death, although the threads that have been stopped before have to be reaped first.
func TestKilledWhileStopping(t *testing.T) {
	for name, wait := range map[string]func(*tracee) error{
		"stop": (*tracee).awaitAll,
		"step": func(tr *tracee) error {
			_, err := waitTask(tr.pid)
			return gone(tr.pid, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			pid, pidfd := startSleepers(t)
			tr, err := newTracee(pid)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.close()
			done := make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				if err := killHalfStopped(tr); err != nil {
					done <- err
					return
				}
				err := wait(tr)
				tr.threads[0].awaited = true
				tr.release()
				done <- err
			}()
			select {
			case err := <-done:
				if !errors.Is(err, engine.ErrGone) {
					t.Errorf("waiting for the leader gave %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the leader is still waited for")
			}
			f := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
			for end := time.Now().Add(20 * time.Second); ; {
				if n, _ := unix.Poll(f, 100); n > 0 { // EINTR: it is looked at again
					break
				}
				if time.Now().After(end) {
					t.Fatal("nobody learns of the death")
				}
			}
		})
	}
}

// killHalfStopped stops all threads but the leader and kills the process.
func killHalfStopped(tr *tracee) error {
	if _, err := tr.list(); err != nil {
		return err
	}
	for i := range tr.threads {
		if err := tr.seize(&tr.threads[i]); err != nil {
			return err
		}
	}
	for i := range tr.threads[1:] {
		th := &tr.threads[1+i]
		if err := tr.await(th); err != nil {
			return err
		}
		th.awaited = true
	}
	if tr.threads[0].tid != tr.pid {
		return errors.New("the leader is not listed first")
	}
	if err := unix.Kill(tr.pid, unix.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); !isDead(tr.pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}
