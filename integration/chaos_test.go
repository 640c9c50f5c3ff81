package integration

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// TestChaos hurts a service, its instances and its monitor at random for $CORSA_CHAOS_ROUNDS rounds (make chaos: 100,000), and
// checks after each that every app has exactly what it stored: nothing of another's, nothing that an acknowledged checkpoint had and
// a crash lost. A failure names the seed; with $CORSA_CHAOS_SEED the same decisions are made again.
func TestChaos(t *testing.T) {
	rounds := number(t, "CORSA_CHAOS_ROUNDS", 1000)
	if testing.Short() {
		rounds = 50
	}
	seed := uint64(number(t, "CORSA_CHAOS_SEED", int(time.Now().UnixNano()&0xffffff)))
	for _, v := range []struct {
		name  string
		flags []string
	}{
		{"manual", nil},
		{"every", []string{"--checkpoint", "every=7"}},
		{"handover", []string{"--path", "handover"}},
		{"parallel", []string{"--concurrency", "parallel", "--checkpoint", "interval=20ms"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := newChaos(t, seed, v.flags...)
			c.auto = strings.Contains(strings.Join(v.flags, " "), "--checkpoint")
			c.direct = strings.Contains(strings.Join(v.flags, " "), "--path")
			share := rounds / 4
			defer func() {
				if t.Failed() {
					t.Logf("again: CORSA_CHAOS_SEED=%d CORSA_CHAOS_ROUNDS=%d", seed, rounds)
				}
			}()
			for c.round = range share {
				if c.play(); t.Failed() {
					return
				}
				if c.round%1000 == 999 {
					t.Logf("%d of %d rounds: %v", c.round+1, share, c.tally)
				}
			}
			t.Logf("seed %d, %d rounds: %v", seed, share, c.tally)
			c.everybody()
			c.ok("delete", "--force", c.id)
			left := c.traces()
			// A monitor that a command has started and that found another one ends by itself, maybe after `delete`.
			for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); left = c.traces() {
				time.Sleep(20 * time.Millisecond)
			}
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func number(t *testing.T, env string, otherwise int) int {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

const chaosApps = 8

// chaos is a service that is hurt.
type chaos struct {
	*served
	rng    *rand.Rand
	apps   []*chaosApp
	auto   bool // checkpoints are taken by policy, too
	direct bool // the bytes do not pass through the monitor
	round  int

	tallyMu sync.Mutex
	tally   map[string]int

	kills atomic.Int64 // of monitors
}

// newChaos serves testdata/store.c from a state root on a file system of its own, which can be full.
func newChaos(t *testing.T, seed uint64, flags ...string) *chaos {
	t.Helper()
	dir := publicDir(t)
	program := buildStore(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := unix.Unmount(disk, 0)
		for end := time.Now().Add(deadline); errors.Is(err, unix.EBUSY) && time.Now().Before(end); err = unix.Unmount(disk, 0) {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("unmount the state root: %v", errors.Join(err, unix.Unmount(disk, unix.MNT_DETACH)))
		}
	})
	s := &served{corsa: newCorsa(t), id: "store", socket: filepath.Join(dir, "store.sock")}
	s.root = filepath.Join(disk, "root")
	args := append([]string{"serve", "--detach", "--id", s.id, "--socket", s.socket, "--writable", dir, "--history", "8"}, flags...)
	s.ok(append(args, "--", program, s.socket)...)
	t.Cleanup(func() {
		if t.Failed() {
			log, err := os.ReadFile(filepath.Join(s.root, s.id, "monitor.log"))
			t.Logf("monitor.log: %s, %v", log[max(0, len(log)-4000):], err)
			stdout, stderr, _ := s.run("", "apps", s.id)
			t.Logf("apps:\n%s%s", stdout, stderr)
		}
	})
	c := &chaos{served: s, rng: rand.New(rand.NewPCG(seed, seed)), tally: map[string]int{}}
	for i := range chaosApps {
		c.apps = append(c.apps, c.newApp(4000+i))
	}
	return c
}

func buildStore(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "store")
	if out, err := exec.Command("gcc", "-O1", "-pthread", "-o", program, "testdata/store.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

func (c *chaos) count(what string) {
	c.tallyMu.Lock()
	defer c.tallyMu.Unlock()
	c.tally[what]++
}

func (c *chaos) newApp(uid int) *chaosApp {
	a := &chaosApp{chaos: c, uid: uid, model: newStoreModel(uint64(uid)), known: map[string]uint64{"base": 0}, head: "base"}
	c.t.Cleanup(a.hangUp)
	return a
}

// play does one round. All decisions are made before anything happens, so that they depend on the seed alone.
func (c *chaos) play() {
	r := c.rng
	order := r.Perm(chaosApps)
	actor := c.apps[order[0]]
	act := actions[pick(r, actions)]
	pain := disturbances[pick(r, disturbances)]
	plan := struct {
		delay, choice, victim int
		others                []int
	}{r.IntN(4000), r.IntN(1 << 30), r.IntN(chaosApps), make([]int, r.IntN(4))}
	for i := range plan.others {
		plan.others[i] = 1 + r.IntN(20)
	}
	c.count(act.name)
	if pain.name != "" {
		c.count(pain.name)
	}

	var wg sync.WaitGroup
	for i, steps := range plan.others {
		a := c.apps[order[i+1]]
		wg.Go(func() { a.steps(steps) })
	}
	wg.Go(func() { act.do(actor, plan.choice) })
	if pain.do != nil {
		time.Sleep(time.Duration(plan.delay) * time.Microsecond)
		pain.do(c, c.apps[plan.victim])
		c.recover() // before the others are done: with direct connections nothing tells them that nobody serves
	}
	wg.Wait()
	for _, a := range append([]*chaosApp{actor, c.apps[plan.victim]}, c.among(order[1:1+len(plan.others)])...) {
		a.check()
	}
	if c.t.Failed() {
		c.t.Logf("round %d: uid %d: %s, %q after %d µs to uid %d, others %v",
			c.round, actor.uid, act.name, pain.name, plan.delay, c.apps[plan.victim].uid, plan.others)
	}
}

func (c *chaos) among(order []int) []*chaosApp {
	var list []*chaosApp
	for _, i := range order {
		list = append(list, c.apps[i])
	}
	return list
}

// recover makes sure that somebody serves again; the first corsa command after a death starts a monitor if the supervisor
// is dead, too.
func (c *chaos) recover() {
	begun := time.Now()
	for {
		_, stderr, code := c.run("", "apps", "--json", c.id)
		if code == 0 {
			return
		}
		if time.Since(begun) > deadline {
			c.t.Errorf("corsa apps: %s", stderr)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// everybody checks all apps, and that each of their checkpoints is what it was.
func (c *chaos) everybody() {
	for _, a := range c.apps {
		a.check()
		for id := range a.history() {
			if _, ok := a.known[id]; ok {
				a.restoreTo(id)
				a.check()
			}
		}
	}
}

// weighted is something that happens with a frequency.
type weighted interface{ frequency() int }

func pick[W weighted](r *rand.Rand, list []W) int {
	total := 0
	for _, w := range list {
		total += w.frequency()
	}
	n := r.IntN(total)
	for i, w := range list {
		if n -= w.frequency(); n < 0 {
			return i
		}
	}
	return 0
}

type disturbance struct {
	name   string
	weight int
	do     func(c *chaos, victim *chaosApp)
}

func (d disturbance) frequency() int { return d.weight }

var disturbances = []disturbance{
	{"", 75, nil},
	{"kill monitor", 8, func(c *chaos, _ *chaosApp) {
		c.killIfThere(c.monitor())
		c.kills.Add(1)
	}},
	{"kill monitor and supervisor", 3, func(c *chaos, _ *chaosApp) {
		m := c.monitor()
		if p, err := parent(m); err == nil && p > 1 {
			c.killIfThere(p)
		}
		c.killIfThere(m)
		c.kills.Add(1)
	}},
	{"kill instance", 10, func(c *chaos, victim *chaosApp) {
		victim.mu.Lock()
		victim.disturbed = true
		victim.mu.Unlock()
		if pid := victim.pid(); pid > 0 {
			victim.note("kill %d", pid)
			c.killIfThere(pid)
		}
	}},
	{"full disk", 4, func(c *chaos, _ *chaosApp) {
		filler := filepath.Join(filepath.Dir(c.root), "filler")
		f, err := os.Create(filler)
		if err != nil {
			c.t.Error(err)
			return
		}
		defer f.Close()
		block := make([]byte, 1<<16)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			c.t.Error(err)
		}
		time.Sleep(30 * time.Millisecond)
		if err := os.Remove(filler); err != nil {
			c.t.Error(err)
		}
	}},
}

// killIfThere kills a process that may have ended by itself meanwhile.
func (c *chaos) killIfThere(pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		c.t.Errorf("kill %d: %v", pid, err)
	}
}

// view is the app as `corsa apps --json` shows it; false: it does not (yet).
func (a *chaosApp) view() (service.AppView, bool) {
	stdout, _, code := a.run("", "apps", "--json", a.id)
	if code != 0 {
		return service.AppView{}, false
	}
	var list []service.AppView
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		a.t.Errorf("apps: %v", err)
	}
	for _, v := range list {
		if string(v.App) == a.key() {
			return v, true
		}
	}
	return service.AppView{}, false
}

func (a *chaosApp) pid() int {
	v, _ := a.view()
	return v.PID
}
