package instance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

// tree makes a history: each name is a checkpoint, taken after restoring its parent.
func tree(t testing.TB, edges ...string) instance.History {
	t.Helper()
	h := instance.History{App: "uid:1", State: instance.Dormant, Base: instance.Checkpoint{ID: instance.Base, Time: epoch, Trigger: "adopt"}}
	for i, edge := range edges {
		id, parent, _ := strings.Cut(edge, "<")
		h.Checkpoints = append(h.Checkpoints, instance.Checkpoint{
			ID: instance.ID(id), App: h.App, Parent: instance.ID(parent), Seq: uint64(i + 1), Time: epoch, Trigger: "t",
		})
		h.Head = instance.ID(id)
	}
	return h
}

// graph is what Print draws, up to the ids.
func graph(t testing.TB, h instance.History) string {
	t.Helper()
	var b bytes.Buffer
	if err := h.Print(&b, epoch); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n")[1:] {
		line, _, _ = strings.Cut(line, "  0ms")
		out = append(out, strings.TrimRight(line, " "))
	}
	return strings.Join(out, "\n")
}

func TestGraph(t *testing.T) {
	for name, test := range map[string]struct {
		edges []string
		want  string
	}{
		"empty":  {nil, "o  base"},
		"line":   {[]string{"a<base", "b<a"}, "*  b\no  a\no  base"},
		"branch": {[]string{"a<base", "b<a", "c<a"}, "*    c\n| o  b\n|/\no    a\no    base"},
		"three at once": {[]string{"a<base", "b<base", "c<base"}, strings.Join([]string{
			"*      c",
			"| o    b",
			"| | o  a",
			"| |/",
			"|/",
			"o      base",
		}, "\n")},
		"crossing": {[]string{"a<base", "b<base", "c<a", "d<b", "e<a"}, strings.Join([]string{
			"*      e",
			"| o    d",
			"| | o  c",
			"| o |  b",
			"|_|/",
			"o |    a",
			"|/",
			"o      base",
		}, "\n")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := graph(t, tree(t, test.edges...)); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0ms", 1500 * time.Millisecond: "1s", 59 * time.Minute: "59m", 47 * time.Hour: "47h", 50 * time.Hour: "2d",
	} {
		if got := instance.FormatAge(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 1 << 60: "1048576.0 TiB",
	} {
		if got := instance.FormatBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestHistoryJSON(t *testing.T) {
	h := tree(t, "a<base")
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var again instance.History
	if err := json.Unmarshal(data, &again); err != nil || graph(t, again) != graph(t, h) {
		t.Errorf("%s reads back as %+v, %v", data, again, err)
	}
}

// The owner of a model writes each record to its journal before it acknowledges the operation.
func Example() {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	var journal bytes.Buffer
	write := func(r instance.Record, err error) {
		if err == nil {
			err = instance.WriteRecords(&journal, r)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	m, opened := instance.New("redis", now, instance.Limits{Count: 16, CrashLoop: instance.DefaultCrashLoop})
	write(opened, nil)
	write(m.SetBase(now, json.RawMessage(`{"pid":100}`), nil))
	write(m.Branch(now, "uid:2001", instance.Base, json.RawMessage(`{"pid":101}`)))
	c, r, err := m.Checkpoint(now.Add(time.Minute), "uid:2001", instance.Captured{Trigger: "manual", UniqueBytes: instance.Known(32 << 10)})
	write(r, err)
	write(m.Tag(now, "uid:2001", c.ID, "good", false))

	again, _, err := instance.Replay(&journal, m.Limits)
	if err != nil {
		fmt.Println(err)
	}
	h, err := again.History("uid:2001")
	if err != nil {
		fmt.Println(err)
	}
	if err := h.Print(os.Stdout, now.Add(2*time.Minute)); err != nil {
		fmt.Println(err)
	}
	// Output:
	//    CHECKPOINT    AGE  TRIGGER  DIRTY  UNIQUE    NAMES
	// *  a617013dd3c7  1m   manual   -      32.0 KiB  HEAD, good
	// o  base          2m   adopt    -      -
}
