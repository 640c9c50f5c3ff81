package instance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

var seed = flag.Uint64("seed", 0, "seed of the random operations; 0 takes several fixed ones")

// horribleNode and horribleModel are the model once more, in the plainest way: one list of everything, searched
// from end to end. Nothing is kept that can be found out by looking.
type horribleNode struct {
	app    instance.App
	id     instance.ID
	parent instance.ID
	tags   []string
	unique int64
}

type horribleModel struct {
	nodes []horribleNode // oldest first
	head  map[instance.App]instance.ID
	state map[instance.App]instance.State
}

func (h *horribleModel) find(app instance.App, id instance.ID) *horribleNode {
	for i := range h.nodes {
		if h.nodes[i].app == app && h.nodes[i].id == id {
			return &h.nodes[i]
		}
	}
	return nil
}

func (h *horribleModel) of(app instance.App) []horribleNode {
	var list []horribleNode
	for _, n := range h.nodes {
		if n.app == app {
			list = append(list, n)
		}
	}
	return list
}

func (h *horribleModel) discard(app instance.App, id instance.ID) {
	parent := h.find(app, id).parent
	var rest []horribleNode
	for _, n := range h.nodes {
		if n.app == app && n.id == id {
			continue
		}
		if n.app == app && n.parent == id {
			n.parent = parent
		}
		rest = append(rest, n)
	}
	h.nodes = rest
	if h.head[app] == id {
		h.head[app] = parent
	}
}

func (h *horribleModel) untag(app instance.App, tag string) bool {
	for i := range h.nodes {
		if at := slices.Index(h.nodes[i].tags, tag); at >= 0 && h.nodes[i].app == app {
			h.nodes[i].tags = slices.Delete(slices.Clone(h.nodes[i].tags), at, at+1)
			return true
		}
	}
	return false
}

// trim discards one at a time and looks anew each time.
func (h *horribleModel) trim(app instance.App, limits instance.Limits) (gone []instance.ID) {
	for {
		list := h.of(app)
		var bytes int64
		for _, n := range list {
			bytes += n.unique
		}
		if len(list) <= limits.Count && bytes <= limits.Bytes {
			return gone
		}
		victim := instance.ID("")
		for _, tagged := range []bool{false, true} {
			for i, n := range list {
				if victim == "" && i != len(list)-1 && n.id != h.head[app] && (len(n.tags) > 0) == tagged {
					victim = n.id
				}
			}
		}
		if victim == "" {
			return gone
		}
		h.discard(app, victim)
		gone = append(gone, victim)
	}
}

// lookup does what Lookup does for a root and a number of steps.
func (h *horribleModel) lookup(app instance.App, root string, steps int) (instance.ID, error) {
	var found []instance.ID
	list := h.of(app)
	switch {
	case root == "base":
		found = []instance.ID{instance.Base}
	case root == "HEAD":
		found = []instance.ID{h.head[app]}
	case root == "latest" && len(list) == 0:
		found = []instance.ID{instance.Base}
	case root == "latest":
		found = []instance.ID{list[len(list)-1].id}
	default:
		for _, n := range list {
			if slices.Contains(n.tags, root) {
				found = []instance.ID{n.id}
			}
		}
		if found == nil {
			for _, n := range list {
				if strings.HasPrefix(string(n.id), root) {
					found = append(found, n.id)
				}
			}
		}
	}
	if len(found) > 1 {
		return "", instance.ErrAmbiguous
	}
	for ; steps > 0 && len(found) == 1; steps-- {
		if found[0] == instance.Base {
			found = nil
		} else {
			found[0] = h.find(app, found[0]).parent
		}
	}
	if len(found) == 0 {
		return "", instance.ErrUnknownRevision
	}
	return found[0], nil
}

// A walk does random operations on both models and writes the journal of one.
type walk struct {
	*testing.T
	rnd     *rand.Rand
	m       *instance.Model
	h       horribleModel
	journal bytes.Buffer
	now     time.Time
	apps    []instance.App
	tags    []string
}

func TestAgainstReference(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4}
	if *seed != 0 {
		seeds = []uint64{*seed}
	}
	for _, s := range seeds {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			w := &walk{
				T: t, rnd: rand.New(rand.NewPCG(s, 1)), now: epoch,
				apps: []instance.App{"uid:1", "uid:2", "cgroup:/a,<b>"}, tags: []string{"x", "y", "good", "abc"},
				h: horribleModel{head: map[instance.App]instance.ID{}, state: map[instance.App]instance.State{}},
			}
			var open instance.Record
			w.m, open = instance.New(fmt.Sprint(s), epoch, instance.Limits{Count: 12, Bytes: 700, CrashLoop: instance.DefaultCrashLoop})
			w.write(nil, open)
			r, err := w.m.SetBase(epoch, []byte(`{"pid": 1}`), instance.Known(5))
			w.write(err, r)
			for i := range 3000 {
				w.now = w.now.Add(time.Duration(w.rnd.IntN(3)) * time.Second)
				app := w.apps[w.rnd.IntN(len(w.apps))]
				w.step(app)
				w.compare(app)
				if i%100 == 0 {
					w.replay()
				}
				if t.Failed() {
					t.Fatalf("at step %d, seed %d", i, s)
				}
			}
			w.replay()
		})
	}
}

// write journals records; an error fails the test.
func (w *walk) write(err error, records ...instance.Record) {
	w.Helper()
	if err != nil {
		w.Error(err)
		return
	}
	if err := instance.WriteRecords(&w.journal, records...); err != nil {
		w.Error(err)
	}
}

// anyID picks a checkpoint of the app, the base, or now and then one that does not exist.
func (w *walk) anyID(app instance.App) instance.ID {
	list := w.h.of(app)
	n := w.rnd.IntN(len(list) + 2)
	switch {
	case n < len(list):
		return list[n].id
	case n == len(list):
		return instance.Base
	}
	return "0123456789ab"
}

func (w *walk) exists(app instance.App, id instance.ID) bool {
	return id == instance.Base || w.h.find(app, id) != nil
}

// step does one operation on both models. What the reference says is illegal has to be an error, and the other way
// round.
func (w *walk) step(app instance.App) {
	state := w.h.state[app]
	known := state != ""
	live := state.Live()
	agree := func(what string, err error, legal bool) bool {
		if (err == nil) != legal {
			w.Errorf("%s for %s, which is %q: error %v, legal: %v", what, app, state, err, legal)
		}
		return err == nil && legal
	}
	switch op := w.rnd.IntN(100); {
	case op < 10:
		from := w.anyID(app)
		r, err := w.m.Branch(w.now, app, from, []byte(`{"a":"<&>"}`))
		if agree("branch", err, w.exists(app, from) && (!known || state == instance.Gone || state == instance.Evicted)) {
			w.write(nil, r)
			w.h.state[app], w.h.head[app] = instance.Dormant, from
		}
	case op < 13:
		r, err := w.m.Evict(w.now, app, "budget")
		if agree("evict", err, live) {
			w.write(nil, r)
			w.h.state[app] = instance.Evicted
		}
	case op < 50:
		unique := int64(w.rnd.IntN(100))
		c, r, err := w.m.Checkpoint(w.now, app, instance.Captured{Trigger: "every", UniqueBytes: instance.Known(unique), Handle: []byte(`7`)})
		if agree("checkpoint", err, live) {
			w.write(nil, r)
			w.h.nodes = append(w.h.nodes, horribleNode{app: app, id: c.ID, parent: w.h.head[app], unique: unique})
			w.h.head[app] = c.ID
		}
	case op < 58:
		to, manual := w.anyID(app), w.rnd.IntN(2) == 0
		r, err := w.m.Restore(w.now, app, to, nil, "why", manual)
		if agree("restore", err, known && w.exists(app, to) && (manual || state != instance.Quarantined)) {
			w.write(nil, r)
			w.h.state[app], w.h.head[app] = instance.Dormant, to
		}
	case op < 64:
		id := w.anyID(app)
		_, r, err := w.m.Discard(w.now, app, id, "test")
		if agree("discard", err, known && id != instance.Base && w.exists(app, id)) {
			w.write(nil, r)
			w.h.discard(app, id)
		}
	case op < 72:
		w.stepTag(app, agree)
	case op < 80:
		if !known {
			return
		}
		want := w.h.trim(app, w.m.Limits)
		gone, records, err := w.m.Trim(w.now, app)
		w.write(err, records...)
		if !slices.EqualFunc(gone, want, func(c instance.Checkpoint, id instance.ID) bool { return c.ID == id }) {
			w.Errorf("trim of %s discarded %v, want %v", app, gone, want)
		}
	case op < 86:
		records, err := w.m.Crash(w.now, app, instance.Crash{Signal: 11, Transactions: uint64(w.rnd.IntN(50))})
		if agree("crash", err, live) {
			w.write(nil, records...)
			w.h.state[app] = instance.Gone
			if len(records) == 2 {
				w.h.state[app] = instance.Quarantined
			}
		}
	case op < 89:
		r, err := w.m.Lost(w.now, app, "lost")
		if agree("lost", err, known && state != instance.Gone) {
			w.write(nil, r)
			w.h.state[app] = instance.Gone
		}
	case op < 91:
		r, err := w.m.Quarantine(w.now, app, "by hand")
		if agree("quarantine", err, known && state != instance.Evicted) {
			w.write(nil, r)
			w.h.state[app] = instance.Quarantined
		}
	case op < 99:
		to := []instance.State{instance.Dormant, instance.Active, instance.Speculative}[w.rnd.IntN(3)]
		if agree("move", w.m.Move(app, to), live) {
			w.h.state[app] = to
		}
	case w.rnd.IntN(4) == 0:
		gone, r, err := w.m.Forget(w.now, app)
		if agree("forget", err, known) {
			w.write(nil, r)
			if len(gone) != len(w.h.of(app)) {
				w.Errorf("forget of %s returned %d checkpoints", app, len(gone))
			}
			w.h.nodes = slices.DeleteFunc(w.h.nodes, func(n horribleNode) bool { return n.app == app })
			delete(w.h.state, app)
			delete(w.h.head, app)
		}
	}
}

func (w *walk) stepTag(app instance.App, agree func(string, error, bool) bool) {
	tag, id, move := w.tags[w.rnd.IntN(len(w.tags))], w.anyID(app), w.rnd.IntN(2) == 0
	if w.rnd.IntN(4) == 0 {
		r, err := w.m.Untag(w.now, app, tag)
		if agree("untag", err, w.h.untag(app, tag)) {
			w.write(nil, r)
		}
		return
	}
	taken := slices.ContainsFunc(w.h.nodes, func(n horribleNode) bool { return n.app == app && n.id != id && slices.Contains(n.tags, tag) })
	node := w.h.find(app, id)
	r, err := w.m.Tag(w.now, app, id, tag, move)
	if agree("tag", err, node != nil && (move || !taken)) {
		w.write(nil, r)
		w.h.untag(app, tag)
		node.tags = append(slices.Clone(node.tags), tag)
		slices.Sort(node.tags)
	}
}

// compare compares what can be asked about an app.
func (w *walk) compare(app instance.App) {
	state, known := w.h.state[app]
	got, err := w.m.App(app)
	if (err == nil) != known {
		w.Errorf("%s is known: %v, %v", app, known, err)
		return
	}
	if !known {
		return
	}
	if got.State != state || got.Head != w.h.head[app] {
		w.Errorf("%s is %s at %s, want %s at %s", app, got.State, got.Head, state, w.h.head[app])
	}
	history, err := w.m.History(app)
	want := w.h.of(app)
	if err != nil || len(history.Checkpoints) != len(want) {
		w.Errorf("%s has %d checkpoints, %v; want %d", app, len(history.Checkpoints), err, len(want))
		return
	}
	for i, c := range history.Checkpoints {
		if n := want[i]; c.ID != n.id || c.Parent != n.parent || !slices.Equal(c.Tags, n.tags) || *c.UniqueBytes != n.unique {
			w.Errorf("%s: checkpoint %d is %+v, want %+v", app, i, c, n)
		}
	}
	roots := append([]string{"base", "HEAD", "latest", "none"}, w.tags...)
	root := roots[w.rnd.IntN(len(roots))]
	if id := w.anyID(app); w.rnd.IntN(2) == 0 && id != instance.Base {
		root = string(id[:1+w.rnd.IntN(len(id))])
	}
	steps := w.rnd.IntN(4)
	wantID, wantErr := w.h.lookup(app, root, steps)
	c, err := w.m.Lookup(app, root+strings.Repeat("^", steps/2)+fmt.Sprintf("~%d", steps-steps/2))
	if c.ID != wantID || !errors.Is(err, wantErr) {
		w.Errorf("%s: %s, %d steps back, is %s, %v; want %s, %v", app, root, steps, c.ID, err, wantID, wantErr)
	}
}

// replay checks that the journal, and a snapshot, give the model again.
func (w *walk) replay() {
	want, err := json.Marshal(w.m)
	if err != nil {
		w.Fatal(err)
	}
	again, done, err := instance.Replay(bytes.NewReader(w.journal.Bytes()), w.m.Limits)
	if err != nil || done.Torn != 0 || done.Size != int64(w.journal.Len()) {
		w.Fatalf("replay: %+v, %v", done, err)
	}
	if got, _ := json.Marshal(again); !bytes.Equal(got, want) {
		w.Errorf("the journal gives\n%s\nwant\n%s", got, want)
	}
	snapshot, err := w.m.Snapshot()
	if err != nil {
		w.Fatal(err)
	}
	var short bytes.Buffer
	if err := instance.WriteRecords(&short, snapshot); err != nil {
		w.Fatal(err)
	}
	if again, _, err = instance.Replay(&short, w.m.Limits); err != nil {
		w.Fatal(err)
	}
	if got, _ := json.Marshal(again); !bytes.Equal(got, want) {
		w.Errorf("the snapshot gives\n%s\nwant\n%s", got, want)
	}
}
