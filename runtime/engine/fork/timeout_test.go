package fork

import (
	"strings"
	"testing"
	"time"
)

// waits is what the evaluator executes to get a thread for each call with a relative timeout. Each counts how often its call has
// timed out, how often it did so too early, and what else it returned.
const waits = `
import ctypes, errno, os, select, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
LIMIT = 0.04
class Wait(threading.Thread):
    def __init__(self, name, nr, make, result):
        super().__init__(name=name, daemon=True)
        self.nr, self.make, self.result = nr, make, result
        self.laps, self.early, self.odd = 0, 0, []
        self.start()
    def run(self):
        while True:
            made = time.monotonic()
            keep = self.make()
            args = [ctypes.c_long(ctypes.addressof(a) if isinstance(a, ctypes.Array) else a) for a in keep]
            begun = made if self.name == "absolute" else time.monotonic()
            ctypes.set_errno(0)
            r = libc.syscall(ctypes.c_long(self.nr), *args)
            e, took = ctypes.get_errno() if r == -1 else 0, time.monotonic() - begun
            if (r, e) != self.result:
                self.odd.append((r, e))
            elif took < LIMIT:
                self.early += 1
            else:
                self.laps += 1
            if self.name.startswith("select") and any(keep[1].raw):
                self.odd.append("the set is not empty")
def spec(n=1_000_000_000):
    return ctypes.create_string_buffer(struct.pack("qq", 0, int(LIMIT * n)), 16)
ms = int(LIMIT * 1000)
ep, (rd, wr) = select.epoll(), os.pipe()
ep.register(rd)
ev, fds = ctypes.create_string_buffer(120), lambda: ctypes.create_string_buffer(struct.pack("ihh", rd, 1, 0), 8)
def readset():
    b = bytearray(128)
    b[rd // 8] |= 1 << rd % 8
    return ctypes.create_string_buffer(bytes(b), 128)
def at():
    n = time.clock_gettime_ns(1) + int(LIMIT * 1e9)
    return ctypes.create_string_buffer(struct.pack("qq", n // 10**9, n % 10**9), 16)
all = [
    Wait("epoll_wait", 232, lambda: [ep.fileno(), ev, 1, ms], (0, 0)),
    Wait("epoll_pwait", 281, lambda: [ep.fileno(), ev, 1, ms, 0, 8], (0, 0)),
    Wait("epoll_pwait2", 441, lambda: [ep.fileno(), ev, 1, spec(), 0, 8], (0, 0)),
    Wait("poll", 7, lambda: [fds(), 1, ms], (0, 0)),
    Wait("ppoll", 271, lambda: [fds(), 1, spec(), 0, 8], (0, 0)),
    Wait("select", 23, lambda: [rd + 1, readset(), 0, 0, spec(1_000_000)], (0, 0)),
    Wait("select, p", 270, lambda: [rd + 1, readset(), 0, 0, spec(), 0], (0, 0)),
    Wait("nanosleep", 35, lambda: [spec(), 0], (0, 0)),
    Wait("clock_nanosleep", 230, lambda: [1, 0, spec(), 0], (0, 0)),
    Wait("futex", 202, lambda: [ctypes.create_string_buffer(4), 128, 0, spec()], (-1, errno.ETIMEDOUT)),
    Wait("rt_sigtimedwait", 128, lambda: [ctypes.create_string_buffer(8), 0, spec(), 8], (-1, errno.EAGAIN)),
    Wait("absolute", 230, lambda: [1, 1, at(), 0], (0, 0)),
]
`

// Waits time out although the instance never runs for as long as they last, not before their time, and as they do
// without corsa; also in an instance that is restored.
func TestTimeoutsAcrossTurns(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "exec(%q, globals())", waits)
	blink := func(e *evaluated) {
		for range 200 {
			time.Sleep(time.Millisecond)
			e.park()
			time.Sleep(4 * time.Millisecond)
			e.activate()
		}
	}
	look := func(e *evaluated) {
		t.Helper()
		e.must("{}", "{w.name: (w.early, w.odd) for w in all if w.early or w.odd}")
		e.must("[]", "[w.name for w in all if not w.laps]")
	}
	blink(e)
	t.Log("laps:", strings.Trim(e.eval("{w.name: w.laps for w in all}"), "{}"))
	look(e)
	c := e.checkpoint(nil)
	restored := branchEvaluator(t, s, c.Image, 1)
	restored.must("[0]", "list(set([setattr(w, 'laps', 0) or w.laps for w in all]))")
	blink(restored)
	look(restored)
}

// A call that was made anew, from the same place with the same arguments, does not inherit the deadline of the one before.
func TestTimeoutsAreNotInherited(t *testing.T) {
	s := startEvaluator(t)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", `exec("import select, time, os\nrd, wr = os.pipe()\nep = select.epoll()\nep.register(rd, select.EPOLLIN)\nearly = 0", globals())`)
	e.must("None", `exec(%q, globals())`, `
def run():
    global early, rounds
    rounds = 0
    while True:
        begun = time.monotonic()
        if not ep.poll(0.05):
            early += time.monotonic() - begun < 0.05
        else:
            os.read(rd, 1)
            rounds += 1
import threading
threading.Thread(target=run, daemon=True).start()
`)
	for range 100 {
		e.must("1", "os.write(wr, b'x')")
		e.park()
		time.Sleep(3 * time.Millisecond)
		e.activate()
	}
	e.must("0", "early")
	e.must("100", "[time.sleep(0.2), rounds][1]")
}
