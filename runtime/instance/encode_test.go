package instance

import (
	"encoding/json"
	"testing"
	"time"
)

// A line is what encoding/json makes of it, however it is made.
func TestLinesAreOrdinaryJSON(t *testing.T) {
	n := int64(7)
	for _, r := range []Record{
		{Kind: KindOpen, Time: time.Unix(1, 2).UTC(), Seed: "a<b\u2028\"\\"},
		{Kind: KindBranch, App: "cgroup:/x&y", ID: "base", Handle: json.RawMessage(`{"a":[1,2],"b":"c"}`)},
		{Kind: KindBranch, App: "uid:1", ID: "base", Handle: json.RawMessage(`{"a": 1}`)},
		{Kind: KindBranch, App: "uid:1", ID: "base", Handle: json.RawMessage(`{"a":"<\u2028é"}`)},
		{Kind: KindCheckpoint, App: "uid:1", ID: "x", Seq: 3, DirtyPages: &n, Handle: json.RawMessage(`1`), Model: json.RawMessage(`[]`)},
		{Kind: KindSnapshot, Model: json.RawMessage(`{"apps":{}}`)},
	} {
		record, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(line{Version: JournalVersion, Sum: sum(record), Record: record})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := AppendRecord(nil, r); err != nil || string(got) != string(want)+"\n" {
			t.Errorf("got  %s\nwant %s, %v", got, want, err)
		}
	}
}
