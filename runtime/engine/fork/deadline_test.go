package fork

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const timers = `
import ctypes, os, select, struct, threading
libc = ctypes.CDLL(None)
def make(ms, every=0):
    fd = libc.timerfd_create(1, 0o2000000 | 0o4000)
    arm(fd, ms, every)
    return fd
def arm(fd, ms, every=0):
    v = struct.pack("qqqq", every // 1000, every % 1000 * 10**6, ms // 1000, ms % 1000 * 10**6)
    assert libc.timerfd_settime(fd, 0, v, None) == 0
def ticks(fd):
    try:
        return struct.unpack("Q", os.read(fd, 8))[0]
    except BlockingIOError:
        return 0
`

// A dormant instance tells when its timerfds expire and when its waits time out, and less and less often what it does not read.
func TestDeadline(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	due := func() time.Duration {
		t.Helper()
		at, ok := e.in.Deadline()
		if !ok {
			return -1
		}
		return time.Until(at)
	}
	within := func(lo, hi time.Duration) {
		t.Helper()
		if d := due(); d < lo || d > hi {
			t.Errorf("the deadline is in %v, want %v to %v", d, lo, hi)
		}
	}
	e.must("None", "exec(%q, globals())", timers)
	within(-1, -1)
	e.park()
	within(-1, -1)
	e.activate()
	e.eval("globals().update(far=make(100_000), near=make(50_000, 1000))")
	within(-1, -1)
	e.park()
	within(40*time.Second, 50*time.Second)
	e.activate()
	e.must("None", "threading.Thread(target=lambda: select.select([], [], [], 20), daemon=True).start()")
	e.must("None", "__import__('time').sleep(0.05)")
	e.park()
	within(10*time.Second, 20*time.Second)
	e.activate()
	e.must("None", "threading.Thread(target=lambda: threading.Lock().acquire() or 0, daemon=True).start()") // no deadline
	e.must("None", "[globals().update(held=threading.Lock()), held.acquire(), threading.Thread(target=held.acquire, args=(True, 9), daemon=True).start()][2]")
	e.must("None", "__import__('time').sleep(0.05)")
	e.park()
	within(5*time.Second, 9*time.Second) // until a time of the clock
	e.activate()
	e.must("None", "held.release()")
	e.must("None", "arm(near, 20)")
	e.park()
	time.Sleep(50 * time.Millisecond)
	within(-time.Second, 0)
	within(0, time.Second) // it was told
	for range 20 {
		due()
	}
	within(500*time.Millisecond, time.Second)
	e.activate()
	e.must("1", "ticks(near)")
	e.must("None", "arm(near, 1)")
	e.must("None", "__import__('time').sleep(0.01)")
	e.park()
	within(-time.Second, time.Second) // whether this is another one cannot be seen
	e.activate()
	e.must("None", "[globals().update(ep=select.epoll()), ep.register(near)][1]")
	e.park()
	within(-time.Second, 0)
	within(-time.Second, 0) // a wait would return
	if err := unix.Kill(e.in.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.in.due.Store(0)
	for end := time.Now().Add(20 * time.Second); due() != -1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an instance that is dead has a deadline")
		}
	}
}
