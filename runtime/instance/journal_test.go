package instance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

// journalOf writes a small journal and returns it with the offsets at which its lines end.
func journalOf(t testing.TB) ([]byte, []int) {
	t.Helper()
	var (
		journal []byte
		ends    []int
	)
	add := func(r instance.Record, err error) {
		t.Helper()
		if err == nil {
			journal, err = instance.AppendRecord(journal, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(journal))
	}
	m, r := instance.New("s", epoch, instance.Limits{})
	add(r, nil)
	add(m.SetBase(epoch, []byte(`{"pid": 7}`), instance.Known(1)))
	add(m.Branch(epoch, "uid:1", instance.Base, []byte(`[1, 2]`)))
	c, r, err := m.Checkpoint(epoch.Add(time.Second), "uid:1", instance.Captured{Trigger: "<manual>", Handle: []byte(`"<>"`)})
	add(r, err)
	add(m.Tag(epoch, "uid:1", c.ID, "x", false))
	return journal, ends
}

// A writer that dies leaves any prefix of its last line; what is before it is read.
func TestTornJournal(t *testing.T) {
	journal, ends := journalOf(t)
	for size := range len(journal) {
		whole := 0
		for whole < len(ends) && ends[whole] <= size {
			whole++
		}
		valid := 0
		if whole > 0 {
			valid = ends[whole-1]
		}
		_, done, err := instance.Replay(bytes.NewReader(journal[:size]), instance.Limits{})
		if err != nil || done.Records != whole || done.Size != int64(valid) || done.Torn != int64(size-valid) {
			t.Fatalf("of %d bytes, %d records: %+v, %v", size, whole, done, err)
		}
	}
	// After a loss of power the end may be there without what is before it.
	for _, tail := range []string{"\x00\x00\x00\x00", "\x00\x00\x00\n", `{"v":1,"crc32c":"00000000","record":{}}` + "\n"} {
		_, done, err := instance.Replay(strings.NewReader(string(journal)+tail), instance.Limits{})
		if err != nil || done.Torn != int64(len(tail)) || done.Records != len(ends) {
			t.Errorf("with the tail %q: %+v, %v", tail, done, err)
		}
	}
}

func TestDamagedJournal(t *testing.T) {
	journal, ends := journalOf(t)
	// Any byte of any line but the last. Without the newline before it, the last line would begin earlier.
	for at := range ends[len(ends)-2] - 1 {
		damaged := bytes.Clone(journal)
		damaged[at] ^= 1
		_, done, err := instance.Replay(bytes.NewReader(damaged), instance.Limits{})
		if !errors.Is(err, instance.ErrCorrupt) && !errors.Is(err, instance.ErrVersion) {
			t.Fatalf("byte %d (%q) changed: %+v, %v", at, journal[at], done, err)
		}
	}
	if _, _, err := instance.Replay(bytes.NewReader(journal[ends[0]:]), instance.Limits{}); err != nil {
		t.Error("a journal whose first line, the seed, is cut off: ", err)
	}
	if _, _, err := instance.Replay(bytes.NewReader(journal[ends[1]:]), instance.Limits{}); !errors.Is(err, instance.ErrCorrupt) {
		t.Error("records that do not fit are taken: ", err)
	}
	other := bytes.Replace(journal, []byte(`"v":1`), []byte(`"v":2`), 1)
	for _, part := range [][]byte{other, other[:ends[0]]} {
		if _, _, err := instance.Replay(bytes.NewReader(part), instance.Limits{}); !errors.Is(err, instance.ErrVersion) {
			t.Error("a journal of another version: ", err)
		}
	}
}

// Every line is JSON by itself, for people with jq.
func TestJournalIsJSONLines(t *testing.T) {
	journal, _ := journalOf(t)
	for line := range bytes.Lines(journal) {
		if !json.Valid(line) {
			t.Errorf("%q", line)
		}
	}
}

type failing struct{ after int }

func (f *failing) Read(p []byte) (int, error) {
	if f.after == 0 {
		return 0, errors.New("disk on fire")
	}
	n := min(f.after, len(p))
	for i := range n {
		p[i] = ' '
	}
	f.after -= n
	return n, nil
}

// A read error is not the end of the journal: taking it for one would cut records off.
func TestJournalReadError(t *testing.T) {
	if _, _, err := instance.Replay(&failing{after: 10}, instance.Limits{}); err == nil || !strings.Contains(err.Error(), "fire") {
		t.Errorf("got %v", err)
	}
}

func TestModelRefusesDamage(t *testing.T) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"version":1,"apps":[{"app":"uid:1","state":"dormant","head":"base"}]}`,
		`{"version":1,"base":{"id":"base"},"apps":[{"app":"uid:1","state":"odd","head":"base"}]}`,
		`{"version":1,"base":{"id":"base"},"apps":[{"app":"uid:1","state":"gone","head":"abc"}]}`,
		`{"version":1,"base":{"id":"base"},"apps":[{"app":"","state":"gone","head":"base"}]}`,
		`{"version":1,"base":{"id":"base"},"apps":[{"app":"uid:1","state":"gone","head":"base","checkpoints":[null]}]}`,
		`{"version":1,"seq":1,"base":{"id":"base"},"apps":[{"app":"uid:1","state":"gone","head":"base","checkpoints":[{"id":"a","app":"uid:1","parent":"b","seq":1}]}]}`,
		`{"version":1,"seq":1,"base":{"id":"base"},"apps":[{"app":"uid:1","state":"gone","head":"base","checkpoints":[{"id":"a","app":"uid:1","parent":"base","seq":2}]}]}`,
	} {
		m := instance.Blank(instance.Limits{})
		if err := m.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("taken: %s", text)
		}
		if len(m.Apps()) != 0 {
			t.Errorf("half of it taken: %s", text)
		}
	}
}

func FuzzReplay(f *testing.F) {
	journal, ends := journalOf(f)
	f.Add(journal)
	f.Add(journal[:ends[2]+5])
	m, _, err := instance.Replay(bytes.NewReader(journal), instance.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	r, err := m.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	snapshot, err := instance.AppendRecord(nil, r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(snapshot, journal[ends[3]:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, done, err := instance.Replay(bytes.NewReader(data), instance.Limits{})
		if err == nil && done.Size+done.Torn != int64(len(data)) {
			t.Errorf("%d and %d bytes of %d", done.Size, done.Torn, len(data))
		}
		// What was read up to there is sound: it reads again, to the same model.
		again, redone, err := instance.Replay(bytes.NewReader(data[:done.Size]), instance.Limits{})
		if err != nil || redone.Records != done.Records {
			t.Fatalf("%+v, then %+v, %v", done, redone, err)
		}
		a, errA := json.Marshal(m)
		b, errB := json.Marshal(again)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s, %v\n%s, %v", a, errA, b, errB)
		}
		if err := instance.Blank(instance.Limits{}).UnmarshalJSON(a); err != nil {
			t.Errorf("the model does not read back: %v\n%s", err, a)
		}
	})
}

// FuzzModel feeds a model JSON that no sum protects, as the record of a snapshot would.
func FuzzModel(f *testing.F) {
	journal, _ := journalOf(f)
	m, _, err := instance.Replay(bytes.NewReader(journal), instance.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := instance.Blank(instance.Limits{})
		if m.UnmarshalJSON(data) != nil {
			return
		}
		for _, a := range m.Apps() {
			h, err := m.History(a.App)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Print(&bytes.Buffer{}, epoch); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Lookup(a.App, "latest~3"); err != nil && !errors.Is(err, instance.ErrUnknownRevision) {
				t.Fatal(err)
			}
		}
	})
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"", "base", "HEAD^", "latest~2", "x^^~3", "~", "a", "^2", "HEAD~99999999999999999999", "x~1a", "~~~", "é"} {
		f.Add(s)
	}
	m := adopted(f, instance.Limits{})
	must(f)(m.Branch(epoch, "uid:1", instance.Base, nil))
	for range 20 {
		checkpoint(f, m, "uid:1", epoch)
	}
	must(f)(m.Tag(epoch, "uid:1", checkpoint(f, m, "uid:1", epoch), "x", false))
	f.Fuzz(func(t *testing.T, revision string) {
		c, err := m.Lookup("uid:1", revision)
		if err != nil {
			if !errors.Is(err, instance.ErrUnknownRevision) && !errors.Is(err, instance.ErrAmbiguous) {
				t.Errorf("%q: %v", revision, err)
			}
			return
		}
		// Its parent is one step further, whatever was written.
		parent, err := m.Lookup("uid:1", revision+"^")
		if c.ID == instance.Base {
			if !errors.Is(err, instance.ErrUnknownRevision) {
				t.Errorf("%q is the base and has a parent: %v", revision, err)
			}
		} else if err != nil || parent.ID != c.Parent {
			t.Errorf("%q^ is %s, %v; want %s", revision, parent.ID, err, c.Parent)
		}
		if again, err := m.Lookup("uid:1", string(c.ID)); err != nil || again.ID != c.ID {
			t.Errorf("%s does not name itself: %v", c.ID, err)
		}
	})
}

// What a snapshot leaves out shows only in what the model does next.
func TestSnapshotKeepsTheCrashLoop(t *testing.T) {
	limits := instance.Limits{CrashLoop: instance.CrashLoop{Stalled: 2, Window: time.Minute}}
	m := adopted(t, limits)
	must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
	if _, err := m.Crash(epoch, "uid:1", instance.Crash{Signal: 6}); err != nil {
		t.Fatal(err)
	}
	must(t)(m.Restore(epoch, "uid:1", instance.Base, nil, "crash", false))
	r, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again := instance.Blank(limits)
	if err := again.Apply(r); err != nil {
		t.Fatal(err)
	}
	if records, err := again.Crash(epoch, "uid:1", instance.Crash{Signal: 6}); err != nil || len(records) != 2 {
		t.Errorf("the second crash of a loop gives %v, %v", records, err)
	}
	if c, _, err := again.Checkpoint(epoch, "uid:1", instance.Captured{}); err == nil {
		t.Errorf("a checkpoint of a quarantined app: %v", c)
	}
}

// The clock of the machine has a zone and a monotonic reading, which a journal does not keep.
func TestReplayWithTheRealClock(t *testing.T) {
	zone := time.FixedZone("far", 5*3600)
	now := time.Now().In(zone)
	m, open := instance.New("s", now, instance.Limits{})
	records := []instance.Record{open}
	for range 2 {
		r, err := m.SetBase(now, nil, nil)
		if err == nil {
			records = append(records, r)
		}
	}
	var journal bytes.Buffer
	if err := instance.WriteRecords(&journal, records...); err != nil {
		t.Fatal(err)
	}
	again, _, err := instance.Replay(&journal, instance.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := m.Base()
	b, _ := again.Base()
	if a.Time != b.Time || !a.Time.Equal(now) {
		t.Errorf("%#v reads back as %#v", a.Time, b.Time)
	}
}

func TestApplyRefusesWhatDoesNotFit(t *testing.T) {
	for name, r := range map[string]instance.Record{
		"unknown kind":       {Kind: "odd", App: "uid:1"},
		"no app":             {Kind: instance.KindCount},
		"app not UTF-8":      {Kind: instance.KindBranch, App: "cgroup:/\xff", ID: instance.Base},
		"unknown app":        {Kind: instance.KindCount, App: "uid:2"},
		"checkpoint again":   {Kind: instance.KindCheckpoint, App: "uid:1", ID: "aa", Parent: instance.Base, Seq: 1},
		"id of another":      {Kind: instance.KindCheckpoint, App: "uid:1", ID: "aa", Parent: instance.Base, Seq: 5},
		"checkpoint as base": {Kind: instance.KindCheckpoint, App: "uid:1", ID: instance.Base, Parent: instance.Base, Seq: 5},
		"unknown parent":     {Kind: instance.KindCheckpoint, App: "uid:1", ID: "bb", Parent: "cc", Seq: 5},
		"second opening":     {Kind: instance.KindOpen, Seed: "x"},
		"bad tag":            {Kind: instance.KindTag, App: "uid:1", ID: "aa", Tag: "a b"},
	} {
		m := adopted(t, instance.Limits{})
		must(t)(m.Branch(epoch, "uid:1", instance.Base, nil))
		first := instance.Record{Kind: instance.KindCheckpoint, App: "uid:1", ID: "aa", Parent: instance.Base, Seq: 1}
		if err := m.Apply(first); err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(m)
		if err := m.Apply(r); err == nil {
			t.Errorf("%s: taken", name)
		}
		if after, _ := json.Marshal(m); !bytes.Equal(before, after) {
			t.Errorf("%s: half of it was done", name)
		}
	}
}
