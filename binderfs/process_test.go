package binderfs

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// logText is what Linux 6.1 says of a process with two devices open, the second in the middle of things.
const logText = `binder proc state:
proc 163
context hwbinder
  thread 163: l 00 need_return 1 tr 0
proc 163
context binder
  thread 163: l 12 need_return 0 tr 0
  thread 170: l 11 need_return 0 tr 0
    incoming transaction 42: 0000000000000000 from 200:201 to 163:170 code 2 flags 10 pri 0 r1 node 5 size 4:0 data 0000000000000000
    pending transaction 43: 0000000000000000 from 0:0 to 163:0 code 3 flags 11 pri 0 r0 node 5 size 8:0 data 0000000000000000
  thread 171: l 25 need_return 0 tr 0
    transaction complete
  node 5: u00007f0000001000 c00007f0000002000 hs 1 hw 1 ls 0 lw 0 is 1 iw 2 tr 1 proc 100 101
    pending async transaction 44: 0000000000000000 from 0:0 to 163:0 code 3 flags 11 pri 0 r0
  node 9: u0000000000000001 c0000000000000001 hs 0 hw 0 ls 0 lw 0 is 0 iw 0 tr 1
  ref 3: desc 0 node 1 s 1 w 1 d 0000000000000000
  ref 8: desc 1 dead node 7 s 0 w 1 d 00000000deadbeef
  buffer 42: 0000000000000000 size 4:0:0 delivered
  pending transaction 45: 0000000000000000 from 0:0 to 163:0 code 1 flags 11 pri 0 r0 node 5 size 8:0 data 0000000000000000
  node work 9: u0000000000000001 c0000000000000001
  has delivered dead binder
`

func writeLogs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, logs, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadProcesses(t *testing.T) {
	dir := writeLogs(t, map[string]string{"proc/163": logText})
	all, err := ReadProcesses(dir, 163, "binder")
	if err != nil || len(all) != 1 {
		t.Fatalf("%d processes, %v", len(all), err)
	}
	p := all[0]
	type thread struct {
		tid                   int
		waits, polls          bool
		transactions, pending int
	}
	var threads []thread
	for _, t := range p.Threads {
		threads = append(threads, thread{t.TID, t.Looper.Waits(), t.Looper&LooperPoll != 0, len(t.Transactions), len(t.Pending)})
	}
	if want := []thread{{163, true, false, 0, 0}, {170, true, false, 1, 1}, {171, false, true, 0, 1}}; !reflect.DeepEqual(threads, want) {
		t.Errorf("threads are %+v, want %+v", threads, want)
	}
	if n := p.Nodes; len(n) != 2 || n[0].ID != 5 || n[0].Ptr != 0x7f0000001000 || n[0].Cookie != 0x7f0000002000 || !n[0].Strong ||
		!reflect.DeepEqual(n[0].Holders, []int{100, 101}) || len(n[0].Pending) != 1 || n[1].Strong || n[1].Holders != nil {
		t.Errorf("nodes are %+v", n)
	}
	if want := []Ref{{Handle: 0, Node: 1, Strong: true}, {Handle: 1, Node: 7, Dead: true, Death: true}}; !reflect.DeepEqual(p.Refs, want) {
		t.Errorf("references are %+v, want %+v", p.Refs, want)
	}
	if p.Buffers != 1 || len(p.Pending) != 3 {
		t.Errorf("%d buffers, pending: %q", p.Buffers, p.Pending)
	}
	if all, err := ReadProcesses(dir, 163, "vndbinder"); err != nil || len(all) != 0 {
		t.Errorf("another device: %d processes, %v", len(all), err)
	}
	if all, err := ReadProcesses(dir, 164, "binder"); err != nil || len(all) != 0 {
		t.Errorf("another process: %d processes, %v", len(all), err)
	}
	if _, err := ReadProcesses(t.TempDir(), 163, "binder"); !errors.Is(err, ErrNoLogs) {
		t.Errorf("without logs: %v", err)
	}
}

// A driver that says something else is an error, not a guess.
func TestReadProcessesMalformed(t *testing.T) {
	for _, line := range []string{
		"  thread x: l 12 need_return 0 tr 0", "  thread 1: m 12", "  node 5: u1 c1 hs 1", "  ref 3: handle 0",
		"    pending transaction 1:", "  ref 3: desc 0 node x s 1 w 1 d 0",
	} {
		dir := writeLogs(t, map[string]string{"proc/1": "binder proc state:\nproc 1\ncontext binder\n" + line + "\n"})
		if _, err := ReadProcesses(dir, 1, "binder"); err == nil {
			t.Errorf("%q was understood", line)
		}
	}
}

func TestReadPool(t *testing.T) {
	dir := writeLogs(t, map[string]string{"stats": `binder stats:
BC_TRANSACTION: 3
proc 163
context hwbinder
  threads: 1
  requested threads: 0+0/0
  ready threads 0
proc 163
context binder
  threads: 3
  requested threads: 1+2/15
  ready threads 1
`})
	if p, err := ReadPool(dir, 163, "binder"); err != nil || p != (Pool{Max: 15, Started: 2, Asked: 1}) {
		t.Errorf("the pool is %+v, %v", p, err)
	}
	if _, err := ReadPool(dir, 164, "binder"); err == nil {
		t.Error("a process that is not there has a pool")
	}
}
