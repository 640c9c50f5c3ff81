package instance_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

var epoch = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// adopted makes a model that has a base.
func adopted(t testing.TB, limits instance.Limits) *instance.Model {
	t.Helper()
	m, _ := instance.New("test", epoch, limits)
	must(t)(m.SetBase(epoch, []byte(`"b"`), nil))
	return m
}

// must fails the test if an operation does.
func must(t testing.TB) func(instance.Record, error) {
	return func(_ instance.Record, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func checkpoint(t testing.TB, m *instance.Model, app instance.App, at time.Time) instance.ID {
	t.Helper()
	c, _, err := m.Checkpoint(at, app, instance.Captured{Trigger: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func TestLifeCycle(t *testing.T) {
	m := adopted(t, instance.Limits{})
	now := epoch
	if _, err := m.App("uid:1"); !errors.Is(err, instance.ErrUnknownApp) {
		t.Errorf("an app that never was: %v", err)
	}
	must(t)(m.Branch(now, "uid:1", instance.Base, []byte(`1`)))
	var te *instance.TransitionError
	if _, err := m.Branch(now, "uid:1", instance.Base, nil); !errors.As(err, &te) || te.From != instance.Dormant {
		t.Errorf("a second branch beside a live instance: %v", err)
	}
	if err := m.Move("uid:1", instance.Active); err != nil {
		t.Error(err)
	}
	if err := m.Move("uid:1", instance.Gone); !errors.Is(err, instance.ErrTransition) {
		t.Errorf("Move to gone, which has to be recorded: %v", err)
	}
	a := checkpoint(t, m, "uid:1", now)
	b := checkpoint(t, m, "uid:1", now)
	must(t)(m.Restore(now, "uid:1", a, []byte(`2`), "asked", true))
	if head, err := m.Head("uid:1"); err != nil || head.ID != a {
		t.Errorf("after a restore the head is %v, %v; want %v", head.ID, err, a)
	}
	c := checkpoint(t, m, "uid:1", now)
	for id, parent := range map[instance.ID]instance.ID{a: instance.Base, b: a, c: a} {
		if got, err := m.Get("uid:1", id); err != nil || got.Parent != parent {
			t.Errorf("parent of %s is %s, %v; want %s", id, got.Parent, err, parent)
		}
	}
	must(t)(m.Lost(now, "uid:1", "not found"))
	if _, _, err := m.Checkpoint(now, "uid:1", instance.Captured{}); !errors.Is(err, instance.ErrTransition) {
		t.Errorf("checkpoint of an instance that is gone: %v", err)
	}
	if err := m.Move("uid:1", instance.Active); !errors.Is(err, instance.ErrTransition) {
		t.Errorf("activation of an instance that is gone: %v", err)
	}
	must(t)(m.Restore(now, "uid:1", c, nil, "crash", false))
	app, err := m.App("uid:1")
	if err != nil || app.Generation != 3 || app.State != instance.Dormant || app.Restores != 2 || app.Captured != 3 {
		t.Errorf("got %+v, %v", app, err)
	}
}

// TestTransitions compares the table with a list of all legal moves, written out once more.
func TestTransitions(t *testing.T) {
	all := []instance.State{
		instance.Empty, instance.Dormant, instance.Active, instance.Speculative, instance.Quarantined, instance.Gone,
	}
	legal := strings.Fields("empty>dormant dormant>active dormant>speculative dormant>quarantined dormant>gone " +
		"active>dormant active>speculative active>quarantined active>gone speculative>dormant speculative>active " +
		"speculative>quarantined speculative>gone quarantined>dormant quarantined>gone gone>dormant gone>quarantined " +
		"dormant>evicted active>evicted speculative>evicted evicted>dormant evicted>gone")
	for _, from := range all {
		for _, to := range all {
			found := slices.Contains(legal, string(from)+">"+string(to))
			if got := from.Can(to); got != (found || from == to) {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
}

func TestMoveDoesNotAllocate(t *testing.T) {
	m := adopted(t, instance.Limits{})
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	n := testing.AllocsPerRun(100, func() {
		if m.Move("uid:1", instance.Active) != nil || m.Move("uid:1", instance.Dormant) != nil {
			t.Error("illegal")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCrashLoop(t *testing.T) {
	loop := instance.CrashLoop{Stalled: 3, Progress: 2, Total: 6, Window: 10 * time.Second}
	type step struct {
		after    time.Duration
		answered uint64
	}
	for name, test := range map[string]struct {
		steps []step
		want  int // the crash at which the app is quarantined, or 0
	}{
		"without progress":        {[]step{{0, 5}, {time.Second, 0}, {time.Second, 0}}, 3},
		"too little progress":     {[]step{{0, 5}, {time.Second, 1}, {time.Second, 1}}, 3},
		"progress":                {[]step{{0, 5}, {time.Second, 2}, {time.Second, 2}, {time.Second, 2}}, 0},
		"progress before the end": {[]step{{0, 5}, {time.Second, 0}, {time.Second, 9}, {time.Second, 0}}, 0},
		"too slow":                {[]step{{0, 5}, {6 * time.Second, 0}, {6 * time.Second, 0}, {6 * time.Second, 0}}, 0},
		"often":                   {[]step{{0, 5}, {time.Second, 9}, {1, 9}, {1, 9}, {1, 9}, {1, 9}}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			m := adopted(t, instance.Limits{CrashLoop: loop})
			must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
			now, answered, got := epoch, uint64(0), 0
			for i, s := range test.steps {
				now, answered = now.Add(s.after), answered+s.answered
				records, err := m.Crash(now, "uid:1", instance.Crash{Signal: 11, Transactions: answered})
				if err != nil {
					t.Fatal(err)
				}
				app, _ := m.App("uid:1")
				if (app.State == instance.Quarantined) != (len(records) == 2) {
					t.Fatalf("state %s with %d records", app.State, len(records))
				}
				if app.State == instance.Quarantined {
					got = i + 1
					break
				}
				must(t)(m.Restore(now, "uid:1", instance.Base, nil, "crash", false))
			}
			if got != test.want {
				t.Errorf("quarantined at crash %d, want %d", got, test.want)
			}
		})
	}
}

func TestQuarantineEndsByHandOnly(t *testing.T) {
	m := adopted(t, instance.Limits{CrashLoop: instance.CrashLoop{Stalled: 2, Window: time.Minute}})
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	crash := func() (quarantined bool) {
		records, err := m.Crash(epoch, "uid:1", instance.Crash{Code: 3})
		if err != nil {
			t.Fatal(err)
		}
		return len(records) == 2
	}
	if crash() {
		t.Fatal("quarantined by one crash")
	}
	must(t)(m.Restore(epoch, "uid:1", instance.Base, nil, "crash", false))
	if !crash() {
		t.Fatal("not quarantined by two crashes")
	}
	if _, err := m.Restore(epoch, "uid:1", instance.Base, nil, "crash", false); !errors.Is(err, instance.ErrTransition) {
		t.Errorf("restored by policy: %v", err)
	}
	must(t)(m.Restore(epoch, "uid:1", instance.Base, nil, "asked", true))
	if crash() {
		t.Error("quarantined by the first crash after it was restored by hand")
	}
}

func TestTrim(t *testing.T) {
	m := adopted(t, instance.Limits{Count: 3})
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	var ids []instance.ID
	for range 6 {
		ids = append(ids, checkpoint(t, m, "uid:1", epoch))
	}
	must(t)(m.Tag(epoch, "uid:1", ids[0], "keep", false))
	must(t)(m.Restore(epoch, "uid:1", ids[2], nil, "asked", true))
	discarded, records, err := m.Trim(epoch, "uid:1")
	if err != nil || len(discarded) != 3 || len(records) != 3 {
		t.Fatalf("discarded %v, %v", discarded, err)
	}
	for i, want := range []instance.ID{ids[1], ids[3], ids[4]} { // not the tagged one, the head, or the newest
		if discarded[i].ID != want {
			t.Errorf("discarded %s, want %s", discarded[i].ID, want)
		}
	}
	if c, err := m.Get("uid:1", ids[5]); err != nil || c.Parent != ids[2] {
		t.Errorf("the newest descends from %s, %v; want %s", c.Parent, err, ids[2])
	}
	m.Limits.Count = 1
	if discarded, _, _ := m.Trim(epoch, "uid:1"); len(discarded) != 1 || discarded[0].ID != ids[0] {
		t.Errorf("discarded %v; want the tagged one, as the last that can go", discarded)
	}
}

func TestTrimBytes(t *testing.T) {
	m := adopted(t, instance.Limits{Bytes: 100})
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	for _, n := range []int64{60, 30, 40, 20} {
		_, _, err := m.Checkpoint(epoch, "uid:1", instance.Captured{UniqueBytes: instance.Known(n)})
		if err != nil {
			t.Fatal(err)
		}
	}
	if discarded, _, err := m.Trim(epoch, "uid:1"); err != nil || len(discarded) != 1 || *discarded[0].UniqueBytes != 60 {
		t.Errorf("discarded %v, %v; want the first", discarded, err)
	}
	if app, _ := m.App("uid:1"); app.UniqueBytes != 90 || app.Kept != 3 || app.Captured != 4 {
		t.Errorf("got %+v", app)
	}
}

func TestTags(t *testing.T) {
	m := adopted(t, instance.Limits{})
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	a, b := checkpoint(t, m, "uid:1", epoch), checkpoint(t, m, "uid:1", epoch)
	must(t)(m.Tag(epoch, "uid:1", a, "good", false))
	must(t)(m.Tag(epoch, "uid:1", a, "good", false)) // again
	for _, tag := range []string{"", "base", "HEAD", "latest", "a b", "-x", "a^", "a~1", "ä", string(make([]byte, 65))} {
		if _, err := m.Tag(epoch, "uid:1", a, tag, false); !errors.Is(err, instance.ErrTag) {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
	if _, err := m.Tag(epoch, "uid:1", b, "good", false); !errors.Is(err, instance.ErrTag) {
		t.Errorf("a tag that names another checkpoint: %v", err)
	}
	if _, err := m.Tag(epoch, "uid:1", instance.Base, "x", false); !errors.Is(err, instance.ErrTag) {
		t.Errorf("a tag for the base: %v", err)
	}
	must(t)(m.Tag(epoch, "uid:1", b, "good", true))
	if c, err := m.Lookup("uid:1", "good"); err != nil || c.ID != b {
		t.Errorf("a moved tag names %s, %v", c.ID, err)
	}
	must(t)(m.Untag(epoch, "uid:1", "good"))
	if _, err := m.Untag(epoch, "uid:1", "good"); !errors.Is(err, instance.ErrUnknownRevision) {
		t.Errorf("a tag that is not there was removed: %v", err)
	}
}

func TestLimitsOfBase(t *testing.T) {
	m, _ := instance.New("s", epoch, instance.Limits{})
	if _, err := m.Branch(epoch, "uid:1", instance.Base, nil); !errors.Is(err, instance.ErrNoBase) {
		t.Errorf("a branch of nothing: %v", err)
	}
	must(t)(m.SetBase(epoch, nil, nil))
	if _, err := m.SetBase(epoch, nil, nil); !errors.Is(err, instance.ErrNoBase) {
		t.Errorf("a second base: %v", err)
	}
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	if _, _, err := m.Discard(epoch, "uid:1", instance.Base, "x"); err == nil {
		t.Error("the base was discarded")
	}
	if _, err := m.SetHandle(epoch, "uid:1", []byte("{")); err == nil {
		t.Error("a handle that is not JSON would make the journal unreadable")
	}
}

func TestParseApp(t *testing.T) {
	for text, want := range map[string]instance.App{
		"2001": "uid:2001", "uid:0": "uid:0", "uid:007": "uid:7", "pid:77": "pid:77", "conn:12": "conn:12",
		"cgroup:/": "cgroup:/", "cgroup:/user.slice/a:b": "cgroup:/user.slice/a:b",
	} {
		if got, err := instance.ParseApp(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "root", "uid:", "uid:-1", "uid:+1", "uid:4294967296", "uid:1x", "pid:99999999999", "cgroup:a", "cgroup:/a/", "cgroup:",
		"cgroup:/a/../b", "gid:1", "UID:1", "cgroup:/\xff",
	} {
		if got, err := instance.ParseApp(text); !errors.Is(err, instance.ErrBadApp) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
