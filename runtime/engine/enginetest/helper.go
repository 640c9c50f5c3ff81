package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
)

func isHelper() bool { return os.Getenv(helperEnv) != "" }

// helper is the monitor that is going to be killed.
type helper struct {
	t    *testing.T
	sub  *subject
	out  journal
	rng  *rand.Rand
	next int
	apps map[int]*app
	imgs map[int]image
}

// runHelper does random work on a service until the process is killed. It ends by itself only on failure. EINTR is not
// counted here: a thread that is stopped when its tracer dies goes on without anybody to mend its system call.
func runHelper(t *testing.T, newEngine func(t *testing.T) engine.Engine) {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv(helperEnv)), &o); err != nil {
		t.Fatalf("%s: %v", helperEnv, err)
	}
	h := &helper{
		t: t, out: journal{os.NewFile(journalFD, "journal")}, next: o.Book.Next,
		rng:  rand.New(rand.NewPCG(o.Seed, 1)),
		apps: make(map[int]*app), imgs: make(map[int]image),
	}
	log := logrus.New()
	log.SetOutput(testWriter(t))
	target := engine.Target{PID: o.PID, Listeners: o.Listeners, Dir: o.Dir, Log: logrus.NewEntry(log)}
	mustProgram(t, "state", o.Program).declare(t, &target)
	e := newEngine(t)
	h.write(entry{Op: opBegin})
	var service engine.Service
	var err error
	if o.State == nil {
		service, err = e.Adopt(context.Background(), target)
	} else {
		service, err = e.Recover(context.Background(), target, o.State)
	}
	if err != nil {
		t.Fatalf("adopt or recover: %v\n%s", err, describe(o.PID))
	}
	h.write(entry{Op: opService, Handle: service.Handle()})
	h.sub = &subject{
		t: t, service: service, dir: o.Dir, sum: 1000, nextID: engine.ConnID(o.Seed), exclusive: engine.IsExclusive(e),
		process: &process{program: mustProgram(t, "state", o.Program)},
	}
	h.open(o.Book)
	h.write(entry{Op: opReady})
	for deadline := time.Now().Add(4 * patience); time.Now().Before(deadline); {
		h.step()
	}
	t.Fatal("the helper was not killed")
}

func (h *helper) write(e entry) {
	if err := h.out.write(e); err != nil {
		h.t.Fatalf("journal: %v", err)
	}
}

// open takes over everything in the book and checks it.
func (h *helper) open(b book) {
	ids := make([]int, 0, len(b.Records))
	for id := range b.Records {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		r := b.Records[id]
		if r.Image {
			h.openImage(id, r)
		} else {
			h.openInstance(id, r)
		}
	}
}

func (h *helper) openImage(id int, r *record) {
	img, err := h.sub.service.OpenImage(context.Background(), r.Handle)
	if r.Ending && errors.Is(err, engine.ErrGone) {
		h.write(entry{Op: opEnded, ID: id})
		return
	}
	if err != nil {
		h.t.Fatalf("open image %d: %v", id, err)
	}
	h.imgs[id] = image{Image: img, sum: r.Sums[0]}
	if r.Ending {
		h.discard(id)
	}
}

func (h *helper) openInstance(id int, r *record) {
	in, err := h.sub.service.OpenInstance(context.Background(), r.Handle)
	if r.Ending && errors.Is(err, engine.ErrGone) {
		h.write(entry{Op: opEnded, ID: id})
		return
	}
	if err != nil {
		h.t.Fatalf("open instance %d: %v\n%s", id, err, describe(r.PID))
	}
	a := &app{t: h.t, sub: h.sub, in: in, conns: make(map[engine.ConnID]*conn), ends: make(engine.Conns)}
	h.apps[id] = a
	if r.Ending {
		h.kill(id)
		return
	}
	// The engine may have died before or after the swap, so both are right; the state must be one that was told.
	a.activate()
	c := h.hello(a)
	a.sum = a.conns[c].number("get")
	if !slices.Contains(r.Sums, a.sum) {
		h.t.Fatalf("instance %d holds %d, want one of %v", id, a.sum, r.Sums)
	}
	h.write(entry{Op: opSum, ID: id, Sum: a.sum})
	a.conns[c].consistent(a.sum)
	a.hangUp(c)
	a.park()
}

// hello dials an active instance, when it has noticed that its former clients are dead.
func (h *helper) hello(a *app) engine.ConnID {
	c := a.dial(0)
	if !eventually(func() bool { return a.conns[c].ask("open") == "1" }) {
		h.t.Fatalf("the instance keeps %s connections", a.conns[c].ask("open"))
	}
	return c
}

// step does one random thing.
func (h *helper) step() {
	switch what := h.rng.IntN(10); {
	case len(h.apps) == 0 || what == 0 && len(h.apps) < 4:
		h.branch()
	case what == 1 && len(h.imgs) < 4:
		h.checkpoint(pick(h.rng, h.apps))
	case what == 2 && len(h.apps) > 2:
		h.kill(pick(h.rng, h.apps))
	case what == 3 && len(h.imgs) > 2:
		h.discard(pick(h.rng, h.imgs))
	case what < 7:
		h.serve(pick(h.rng, h.apps))
	default:
		h.blink(pick(h.rng, h.apps))
	}
}

func pick[V any](rng *rand.Rand, from map[int]V) int {
	keys := make([]int, 0, len(from))
	for k := range from {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys[rng.IntN(len(keys))]
}

func (h *helper) branch() {
	img := h.sub.base()
	if len(h.imgs) > 0 && h.rng.IntN(2) == 0 {
		img = h.imgs[pick(h.rng, h.imgs)]
	}
	a := h.sub.branch(img)
	h.apps[h.next] = a
	h.write(entry{Op: opInstance, ID: h.next, PID: a.in.PID(), Sum: a.sum, Handle: a.in.Handle()})
	h.next++
}

// serve activates an instance, has it change and answer, and parks it again.
func (h *helper) serve(id int) {
	a := h.apps[id]
	a.activate()
	c := h.hello(a)
	n := uint64(h.rng.IntN(5) + 1)
	h.write(entry{Op: opWill, ID: id, Sum: a.sum + n})
	a.mutate(c, n)
	h.write(entry{Op: opSum, ID: id, Sum: a.sum})
	if h.rng.IntN(8) == 0 {
		a.conns[c].consistent(a.sum)
	}
	a.hangUp(c)
	a.park()
}

// blink parks and activates without a request.
func (h *helper) blink(id int) {
	for range h.rng.IntN(20) {
		h.apps[id].activate()
		h.apps[id].park()
	}
}

func (h *helper) checkpoint(id int) {
	img := h.apps[id].checkpoint()
	h.imgs[h.next] = img
	h.write(entry{Op: opImage, ID: h.next, Sum: img.sum, Handle: img.Handle()})
	h.next++
}

func (h *helper) kill(id int) {
	h.write(entry{Op: opEnding, ID: id})
	h.apps[id].kill()
	delete(h.apps, id)
	h.write(entry{Op: opEnded, ID: id})
}

func (h *helper) discard(id int) {
	h.write(entry{Op: opEnding, ID: id})
	if err := h.imgs[id].Discard(); err != nil {
		h.t.Fatalf("discard image %d: %v", id, err)
	}
	delete(h.imgs, id)
	h.write(entry{Op: opEnded, ID: id})
}

// marshal is for the parent.
func (o order) marshal() (string, error) {
	text, err := json.Marshal(o)
	return fmt.Sprintf("%s=%s", helperEnv, text), err
}
