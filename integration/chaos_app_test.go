package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// chaosApp is an app of a store, and what it must find there.
type chaosApp struct {
	*chaos
	uid   int
	model *storeModel
	conn  net.Conn
	r     *bufio.Reader

	steps0 uint64            // after the last step that was answered
	flight uint64            // steps that were asked for and not answered
	known  map[string]uint64 // checkpoints, with their steps
	head   string            // the one that a crash leads to
	eintr  uint64            // interrupted calls that it has told about
	kills0 int64             // monitors killed until it was asked
	doubt  bool              // whether the last checkpoint or restore was carried out is not known

	mu        sync.Mutex
	disturbed bool     // its instance may have been killed
	notes     []string // what has happened to it last
}

// note keeps what happens, for a failure to tell.
func (a *chaosApp) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.notes) == 20 {
		a.notes = slices.Delete(a.notes, 0, 1)
	}
	a.notes = append(a.notes, fmt.Sprintf("%d: ", a.round)+fmt.Sprintf(format, args...))
}

type action struct {
	name   string
	weight int
	do     func(a *chaosApp, choice int)
}

func (x action) frequency() int { return x.weight }

var actions = []action{
	{"step", 30, func(a *chaosApp, choice int) { a.steps(1 + choice%30) }},
	{"checkpoint", 25, func(a *chaosApp, choice int) { a.steps(choice % 5); a.checkpoint() }},
	{"restore", 10, func(a *chaosApp, choice int) { a.restore(choice) }},
	{"segv", 6, func(a *chaosApp, _ int) { a.crash("segv") }},
	{"abort", 5, func(a *chaosApp, _ int) { a.crash("abort") }},
	{"wild", 10, func(a *chaosApp, choice int) { a.crash("wild " + strconv.Itoa(choice)) }},
	{"exit", 4, func(a *chaosApp, _ int) { a.crash("exit") }},
	{"overflow", 3, func(a *chaosApp, _ int) { a.crash("overflow") }},
	{"hang", 3, func(a *chaosApp, _ int) { a.hang() }},
	{"hang up", 4, func(a *chaosApp, _ int) { a.hangUp() }},
}

func (a *chaosApp) key() string { return "uid:" + strconv.Itoa(a.uid) }

func (a *chaosApp) failf(format string, args ...any) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.t.Errorf("uid %d after %d steps: %s\n%s", a.uid, a.steps0, fmt.Sprintf(format, args...), strings.Join(a.notes, "\n"))
}

func (a *chaosApp) hangUp() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

// ask sends a line and returns the answer's number of steps, once that is known to be right.
func (a *chaosApp) ask(patience time.Duration, line string) (uint64, error) {
	if a.conn == nil {
		conn, err := dialAs(a.uid, a.socket)
		if err != nil {
			return 0, err
		}
		a.conn, a.r = conn, bufio.NewReader(conn)
	}
	kills := a.kills.Load()
	text, err := "", a.conn.SetDeadline(time.Now().Add(patience))
	if err == nil {
		if _, err = fmt.Fprintf(a.conn, "%d %s\n", a.uid, line); err == nil {
			text, err = a.r.ReadString('\n')
		}
	}
	a.note("%s: %q, %v", line, text, err)
	if errors.Is(err, os.ErrDeadlineExceeded) && patience == deadline {
		a.failf("%s: no answer", line)
	}
	if err != nil {
		a.hangUp()
		return 0, err
	}
	var name, steps, sum, interrupted uint64
	if _, err := fmt.Sscanf(text, "%d %d %x %d", &name, &steps, &sum, &interrupted); err != nil || name != uint64(a.uid) {
		a.failf("%s: answered %q: %v: that is another app's state", line, text, err)
		return steps, nil
	}
	if want := a.model.after(steps); sum != want {
		a.failf("%s: answered %q, whose checksum should be %x: its state is damaged", line, text, want)
	}
	// A call that parking broke off is made again by whoever parks; only one who is killed in the middle of it cannot.
	if interrupted > a.eintr && a.kills.Load() == a.kills0 {
		a.failf("%s: %d calls were interrupted, with %d before", line, interrupted, a.eintr)
	}
	a.eintr, a.kills0 = max(a.eintr, interrupted), kills
	return steps, nil
}

// steps asks for n steps, some at a time.
func (a *chaosApp) steps(n int) {
	for n > 0 && !a.doubt {
		some := min(n, 4)
		n -= some
		a.flight = uint64(some)
		got, err := a.ask(deadline, "step "+strconv.Itoa(some))
		if err != nil {
			return // check finds out what has become of them
		}
		if !a.follows(got, true) {
			return
		}
	}
}

// follows takes over the number of steps that the app was found to have, if there can be so many.
func (a *chaosApp) follows(got uint64, answered bool) bool {
	a.mu.Lock()
	disturbed := a.disturbed
	a.mu.Unlock()
	can := []uint64{a.steps0 + a.flight}
	if !answered {
		can = append(can, a.steps0)
	}
	if disturbed {
		for _, from := range a.heads() {
			can = append(can, from, from+a.flight)
		}
	}
	if !slices.Contains(can, got) {
		a.failf("it has %d steps, which should be one of %v (%d under way; killed: %t; HEAD %s has %d)", got, can,
			a.flight, disturbed, a.head, a.known[a.head])
		return false
	}
	a.steps0, a.flight = got, 0
	return true
}

// heads are the states that a crash may have led to.
func (a *chaosApp) heads() []uint64 {
	heads := []uint64{a.known[a.head]}
	if a.auto { // by policy checkpoints are taken all the time, but not of what has not happened
		for n := a.known[a.head]; n <= a.steps0+a.flight; n++ {
			heads = append(heads, n)
		}
	}
	return heads
}

// check finds out what state the app is in, which must be one that it can be in.
func (a *chaosApp) check() {
	if a.t.Failed() {
		return
	}
	if a.doubt {
		a.settle()
	}
	got, err := a.state()
	if err != nil {
		a.failf("it is not served: %v", err)
		return
	}
	if a.follows(got, false) {
		a.mu.Lock()
		a.disturbed = false
		a.mu.Unlock()
	}
}

// checkpoint takes one. If that fails, it is not known whether it is on record.
func (a *chaosApp) checkpoint() {
	if a.conn == nil { // corsa knows nobody who has never connected
		_, _ = a.ask(deadline, "step 0") // nobody may serve now; check finds out
	}
	if a.flight != 0 || a.doubt || a.conn == nil {
		return
	}
	stdout, stderr, code := a.run("", "checkpoint", "--app", strconv.Itoa(a.uid), a.id)
	a.note("checkpoint: %q %q", stdout, stderr)
	if code != 0 {
		a.excuse("checkpoint", stderr)
		a.doubt = true
		return
	}
	head := strings.TrimSpace(stdout)
	a.mu.Lock()
	disturbed := a.disturbed
	a.mu.Unlock()
	if disturbed { // of which state it is, the next look tells
		got, err := a.ask(deadline, "step 0")
		if err != nil {
			a.doubt = true
			return
		}
		a.follows(got, false)
	}
	a.head, a.known[head] = head, a.steps0
}

// excuse fails the test if an error of corsa's does not say what is wrong.
func (a *chaosApp) excuse(what, stderr string) {
	if strings.TrimSpace(stderr) == "" || strings.Contains(stderr, "panic") {
		a.failf("%s failed and said %q", what, stderr)
	}
	a.count(what + " failed")
}

// restore goes back to one of the checkpoints that are still kept.
func (a *chaosApp) restore(choice int) {
	var ids []string
	for id := range a.history() {
		if _, ok := a.known[id]; ok {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	a.restoreTo(ids[choice%len(ids)])
}

func (a *chaosApp) restoreTo(id string) {
	if a.flight != 0 || a.doubt {
		return
	}
	_, stderr, code := a.run("", "restore", "--app", strconv.Itoa(a.uid), "--to", id, a.id)
	a.note("restore to %s (%d): %d %q", id, a.known[id], code, stderr)
	if code != 0 {
		a.excuse("restore", stderr)
		a.doubt = true
		return
	}
	a.head, a.steps0 = id, a.known[id]
}

// history are the ids of the checkpoints that corsa has of the app, or nothing if it cannot tell now.
func (a *chaosApp) history() map[string]bool {
	ids := map[string]bool{}
	stdout, _, code := a.run("", "log", "--json", a.id, a.key())
	if code != 0 {
		return ids
	}
	var h struct {
		Checkpoints []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(stdout), &h); err != nil {
		a.failf("log: %v", err)
	}
	for _, c := range h.Checkpoints {
		ids[c.ID] = true
	}
	return ids
}

// settle finds out what has become of a checkpoint or restore of which that is not known.
func (a *chaosApp) settle() {
	var head string
	eventually(a.t, "apps tells the head of "+a.key(), func() bool {
		v, ok := a.view()
		head = v.Head
		return ok
	})
	got, err := a.state()
	if err != nil {
		a.failf("it is not served: %v", err)
		return
	}
	a.note("settle: head %s", head)
	n, ok := a.known[head]
	a.mu.Lock()
	disturbed := a.disturbed
	a.mu.Unlock()
	if !ok && !a.auto { // the checkpoint that seemed to fail is on record
		n, ok = a.steps0, true
		if disturbed {
			n = got
		}
		a.known[head] = n
	}
	if got != a.steps0 && got != n && (!disturbed || got != a.known[a.head]) && !a.auto {
		a.failf("it has %d steps, which should be %d, or %d as its head %s", got, a.steps0, n, head)
	}
	a.steps0, a.flight, a.doubt = got, 0, false
	if ok {
		a.head = head
	}
}

// state asks for the number of steps, again and again while nobody serves.
func (a *chaosApp) state() (got uint64, err error) {
	for end := time.Now().Add(deadline); ; time.Sleep(2 * time.Millisecond) {
		if got, err = a.ask(deadline, "step 0"); err == nil || time.Now().After(end) {
			return got, err
		}
		// With direct connections nobody knows that requests were answered between the crashes.
		if v, ok := a.view(); ok && v.State == "quarantined" && a.direct {
			a.run("", "restore", "--app", strconv.Itoa(a.uid), "--to", v.Head, a.id)
		}
	}
}

// crash sends a request that the instance dies of. Then the app has what its head had.
func (a *chaosApp) crash(line string) {
	if a.flight != 0 || a.doubt {
		return
	}
	a.mu.Lock()
	a.disturbed = true
	a.mu.Unlock()
	if got, err := a.ask(deadline, line); err == nil {
		a.failf("%s: answered with %d steps", line, got)
	}
}

// hang has the instance compute for ever. The others go on meanwhile, and a restore ends it.
func (a *chaosApp) hang() {
	if a.flight != 0 || a.doubt {
		return
	}
	if got, err := a.ask(100*time.Millisecond, "hang"); err == nil {
		a.failf("hang: answered with %d steps", got)
	}
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		a.restoreTo(a.newest())
		if !a.doubt || time.Now().After(end) {
			break
		}
		a.doubt = false // it still hangs, unless a new monitor has ended it
	}
	a.mu.Lock()
	a.disturbed = true // a monitor that died in between may have taken the death in the restore for a crash
	a.mu.Unlock()
}

// newest is the last checkpoint that is still kept and whose steps are known.
func (a *chaosApp) newest() string {
	if !a.auto {
		return a.head
	}
	best, steps := "base", uint64(0)
	for id := range a.history() {
		if n, ok := a.known[id]; ok && n >= steps {
			best, steps = id, n
		}
	}
	return best
}
