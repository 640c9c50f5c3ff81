package transcript

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const watched = 300

// pairAll makes transactions of a text as the kernel writes it. Threads from 300 to 309 are the watched process's.
func pairAll(t *testing.T, text string) []Transaction {
	t.Helper()
	var got []Transaction
	p := newPairer(watched, func(tid int) int { return 2000 + tid }, func(tid int) bool { return tid/10 == watched/10 }, func(x *Transaction) {
		got = append(got, *x)
	})
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		e, ok := parseEvent(line)
		if !ok {
			t.Fatalf("cannot read %q", line)
		}
		p.add(&e)
	}
	return got
}

func TestAnswered(t *testing.T) {
	got := pairAll(t, `
     a [b]-c d-7  [001] .....    12.000100: binder_transaction: transaction=5 dest_node=2 dest_proc=300 dest_thread=0 reply=0 flags=0x10 code=0x1f
     a [b]-c d-7  [001] .....    12.000110: binder_transaction_alloc_buf: transaction=5 data_size=64 offsets_size=0 extra_buffers_size=0
   service-302    [000] ...1.    12.000350: binder_transaction_received: transaction=5
   service-302    [000] .....    12.000400: binder_transaction: transaction=6 dest_node=0 dest_proc=7 dest_thread=7 reply=1 flags=0x0 code=0x0
   service-302    [000] .....    12.000410: binder_transaction_alloc_buf: transaction=6 data_size=4 offsets_size=0 extra_buffers_size=0
   service-302    [000] .....    12.000420: binder_txn_latency_free: transaction=5 from 7:7 to 300:302 flags=0x1f code=0x10
         c-7      [001] .....    12.000500: binder_transaction_received: transaction=6
`)
	want := Transaction{
		At: 12000100 * time.Microsecond, Comm: "a [b]-c d", TID: 7, UID: 2007, Node: 2, Code: 0x1f, Size: 64,
		Waited: 250 * time.Microsecond, Took: 50 * time.Microsecond, Reply: 4, State: Answered,
	}
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestEnds(t *testing.T) {
	got := pairAll(t, `
 app-7 [001] ..... 1.000001: binder_transaction: transaction=1 dest_node=2 dest_proc=300 dest_thread=0 reply=0 flags=0x11 code=0x2
 app-7 [001] ..... 1.000002: binder_transaction_alloc_buf: transaction=1 data_size=8 offsets_size=0 extra_buffers_size=0
 svc-301 [000] ..... 1.000005: binder_transaction_received: transaction=1
 svc-301 [000] ..... 1.000006: binder_txn_latency_free: transaction=1 from 7:7 to 300:0 flags=0x2 code=0x11
 app-7 [001] ..... 2.000000: binder_transaction: transaction=2 dest_node=2 dest_proc=300 dest_thread=0 reply=0 flags=0x10 code=0x3
 app-7 [001] ..... 2.000001: binder_transaction_alloc_buf: transaction=2 data_size=12 offsets_size=0 extra_buffers_size=0
 app-7 [001] ..... 7.000001: binder_transaction_failed_buffer_release: transaction=2 data_size=12 offsets_size=0 extra_buffers_size=0
 app-8 [001] ..... 8.000000: binder_transaction: transaction=3 dest_node=2 dest_proc=300 dest_thread=0 reply=0 flags=0x10 code=0x4
 svc-301 [000] ..... 8.000010: binder_transaction_received: transaction=3
 kworker/0:1-55 [000] ..... 8.000500: binder_txn_latency_free: transaction=3 from 8:8 to 300:301 flags=0x4 code=0x10
 app-9 [001] ..... 9.000000: binder_transaction: transaction=4 dest_node=9 dest_proc=400 dest_thread=0 reply=0 flags=0x10 code=0x4
`)
	want := []State{Taken, Failed, Failed}
	if len(got) != len(want) {
		t.Fatalf("%d transactions: %+v", len(got), got)
	}
	for i := range want {
		if got[i].State != want[i] {
			t.Errorf("transaction %d: %+v, want %s", i, got[i], want[i])
		}
	}
	if !got[0].OneWay || got[0].Waited != 4*time.Microsecond || got[1].OneWay || got[1].Size != 12 || got[2].Code != 4 {
		t.Errorf("%+v", got)
	}
}

// A callback is answered within the call that it belongs to, and both are told.
func TestNested(t *testing.T) {
	got := pairAll(t, `
 app-7 [001] ..... 1.000000: binder_transaction: transaction=1 dest_node=2 dest_proc=300 dest_thread=0 reply=0 flags=0x10 code=0x1
 svc-301 [000] ..... 1.000010: binder_transaction_received: transaction=1
 svc-301 [000] ..... 1.000020: binder_transaction: transaction=2 dest_node=5 dest_proc=7 dest_thread=7 reply=0 flags=0x10 code=0x2
 app-7 [001] ..... 1.000030: binder_transaction_received: transaction=2
 app-7 [001] ..... 1.000040: binder_transaction: transaction=3 dest_node=0 dest_proc=300 dest_thread=301 reply=1 flags=0x0 code=0x0
 app-7 [001] ..... 1.000041: binder_transaction_alloc_buf: transaction=3 data_size=4 offsets_size=0 extra_buffers_size=0
 svc-301 [000] ..... 1.000050: binder_transaction_received: transaction=3
 svc-301 [000] ..... 1.000060: binder_transaction: transaction=4 dest_node=0 dest_proc=7 dest_thread=7 reply=1 flags=0x0 code=0x0
 svc-301 [000] ..... 1.000061: binder_transaction_alloc_buf: transaction=4 data_size=8 offsets_size=0 extra_buffers_size=0
`)
	if len(got) != 2 || !got[0].Outgoing || got[0].Code != 2 || got[1].Outgoing || got[1].Code != 1 || got[1].Took != 50*time.Microsecond {
		t.Errorf("%+v", got)
	}
}

// Many clients and threads at once: each transaction is told once, with what belongs to it, in spite of their order.
func TestCrowd(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type call struct{ id, client, thread, phase int }
	var text strings.Builder
	var calls []*call
	next, clock := 1, 0
	free := []int{301, 302, 303}
	event := func(tid int, format string, args ...any) {
		clock++
		fmt.Fprintf(&text, " x-%d [000] ..... %d.%06d: %s\n", tid, clock/1000000, clock%1000000, fmt.Sprintf(format, args...))
	}
	for done := 0; done < 500; {
		if len(calls) < 6 && rng.IntN(2) == 0 {
			c := &call{id: next, client: 1000 + next}
			next++
			event(c.client, "binder_transaction: transaction=%d dest_node=1 dest_proc=300 dest_thread=0 reply=0 flags=0x10 code=%#x", c.id, c.id)
			event(c.client, "binder_transaction_alloc_buf: transaction=%d data_size=%d offsets_size=0 extra_buffers_size=0", c.id, c.id)
			calls = append(calls, c)
			continue
		}
		if len(calls) == 0 {
			continue
		}
		i := rng.IntN(len(calls))
		switch c := calls[i]; {
		case c.phase == 0 && len(free) > 0:
			c.thread, free, c.phase = free[0], free[1:], 1
			event(c.thread, "binder_transaction_received: transaction=%d", c.id)
		case c.phase == 1:
			reply := next
			next++
			event(c.thread, "binder_transaction: transaction=%d dest_node=0 dest_proc=%d dest_thread=0 reply=1 flags=0x0 code=0x0", reply, c.client)
			event(c.thread, "binder_transaction_alloc_buf: transaction=%d data_size=%d offsets_size=0 extra_buffers_size=0", reply, 2*c.id)
			event(c.thread, "binder_txn_latency_free: transaction=%d from 1:1 to 300:300 flags=0x0 code=0x0", c.id)
			free = append(free, c.thread)
			calls = append(calls[:i], calls[i+1:]...)
			done++
		}
	}
	seen := map[uint32]bool{}
	for _, x := range pairAll(t, text.String()) {
		if seen[x.Code] || x.State != Answered || x.Size != int64(x.Code) || x.Reply != 2*x.Size || x.TID != 1000+int(x.Code) {
			t.Fatalf("%+v", x)
		}
		seen[x.Code] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d transactions of 500", len(seen))
	}
}

func TestNoEvent(t *testing.T) {
	for _, line := range []string{
		"", "CPU:0 [LOST 12 EVENTS]", "# tracer: nop", " x-y [000] ..... 1.0: a: b", " x-1 [000] ..... soon: a: b=1", " x-1 [000] 1.0 a",
	} {
		if e, ok := parseEvent(line); ok {
			t.Errorf("%q is read as %+v", line, e)
		}
	}
}
