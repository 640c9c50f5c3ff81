package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/kmod/client/clienttest"
)

// session is one over a fake kernel with the replies.
func session(t *testing.T, replies map[string]clienttest.Reply) (*client.Session, *clienttest.Kernel) {
	t.Helper()
	k := &clienttest.Kernel{Replies: replies}
	d, err := client.OpenWith(k)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := d.Attach(0, true)
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return s, k
}

func fail(errno unix.Errno) clienttest.Reply {
	return func(any) (int, unix.Errno) { return -1, errno }
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		kernel *clienttest.Kernel
		want   error
		text   string
	}{
		{&clienttest.Kernel{OpenErrno: unix.ENOENT}, client.ErrNoModule, "insmod"},
		{&clienttest.Kernel{OpenErrno: unix.ENXIO}, client.ErrNoModule, "/dev/corsa"},
		{&clienttest.Kernel{OpenErrno: unix.EACCES}, os.ErrPermission, "/dev/corsa"},
		{&clienttest.Kernel{Replies: map[string]clienttest.Reply{"Version": fail(unix.ENOTTY)}}, client.ErrVersion, "same source"},
		{&clienttest.Kernel{Replies: map[string]clienttest.Reply{"Version": func(arg any) (int, unix.Errno) {
			arg.(*clienttest.Version).Major = clienttest.ABIMajor + 1
			return 0, 0
		}}}, client.ErrVersion, fmt.Sprint("version ", clienttest.ABIMajor+1)},
	} {
		d, err := client.OpenWith(c.kernel)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%v, want %v and %q", err, c.want, c.text)
		}
		if d != nil {
			t.Error("a device was returned with an error")
		}
	}
}

func TestErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.ENOENT: client.ErrNoRecord, unix.ESRCH: client.ErrOver, unix.EBUSY: client.ErrBusy, unix.EINVAL: client.ErrState,
		unix.EDEADLK: client.ErrSelf, unix.ENOSPC: client.ErrFull, unix.EPERM: os.ErrPermission, unix.ENOMEM: unix.ENOMEM,
	} {
		s, _ := session(t, map[string]clienttest.Reply{
			"Checkpoint": fail(errno), "Activate": fail(errno), "Discard": fail(errno), "Memory": fail(errno), "Restore": fail(errno),
			"GetFD": fail(errno),
		})
		_, e1 := s.Checkpoint(7, 0, 0)
		e2 := s.Activate(7, 0, 0)
		e3 := s.Discard(7)
		_, e4 := s.Memory(7)
		_, e5 := s.Restore(3, 7, 0)
		_, e6 := s.GetFD(7, 4)
		for i, err := range []error{e1, e2, e3, e4, e5, e6} {
			if !errors.Is(err, want) || !errors.Is(err, errno) {
				t.Errorf("%v of request %d becomes %v, want %v", errno, i, err, want)
			}
			if !strings.Contains(fmt.Sprint(err), "record 7") {
				t.Errorf("%v does not name the record", err)
			}
		}
	}
}

// TestRefused asserts that what the module refuses arrives with all objects, and with how many did not fit.
func TestRefused(t *testing.T) {
	s, _ := session(t, map[string]clienttest.Reply{"Checkpoint": func(arg any) (int, unix.Errno) {
		c := arg.(*clienttest.Copy)
		room := clienttest.Slice[clienttest.Refusal](c.Refusals, c.RefusalCap)
		for i := range room {
			room[i] = clienttest.Refusal{Kind: uint32(client.RefuseTimer), FD: -1}
		}
		room[0] = clienttest.Refusal{Kind: uint32(client.RefuseIOUring), TID: 17, FD: -1}
		room[1] = clienttest.Refusal{Kind: uint32(client.RefuseFileOpen), FD: 5, Code: int32(unix.ESTALE)}
		room[2] = clienttest.Refusal{Kind: uint32(client.RefuseHugetlb), FD: -1, Addr: 0x7f0000200000}
		room[3] = clienttest.Refusal{Kind: 4711, FD: -1}
		c.RefusalCount = c.RefusalCap + 2
		return -1, unix.EOPNOTSUPP
	}})
	_, err := s.Checkpoint(0, 0, 0)
	var r *client.Refused
	if !errors.Is(err, client.ErrRefused) || !errors.As(err, &r) || r.More != 2 {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, want := range []string{"thread 17 (io_uring)", "fd 5 (file)", unix.ESTALE.Error(), "mapping 7f0000200000 (hugetlb", "timer", "kind 4711", "2 more"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for _, x := range r.Refusals {
		if x.Object() == "" || x.Reason() == "" || x.WayOut() == "" {
			t.Errorf("incomplete: %+v", x)
		}
	}
}

func TestCopy(t *testing.T) {
	s, k := session(t, map[string]clienttest.Reply{"Branch": func(arg any) (int, unix.Errno) {
		c := arg.(*clienttest.Copy)
		if c.Src != 3 || c.Cookie != 99 || client.CopyFlags(c.Flags) != client.CopyWipe {
			return -1, unix.EINVAL
		}
		c.ID, c.NSStop, c.NSDup, c.NSTotal = 8, 1, 2, 4
		return 0, 0
	}})
	got, err := s.Branch(3, client.CopyWipe, 99)
	if want := (client.Copied{ID: 8, Stop: 1, Dup: 2, Total: 4}); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if calls := k.Calls(); !reflect.DeepEqual(calls, []string{"Version", "Attach", "Branch"}) {
		t.Error(calls)
	}
}

// TestList has more records than there is room for at first.
func TestList(t *testing.T) {
	const n = 200
	s, _ := session(t, map[string]clienttest.Reply{"List": func(arg any) (int, unix.Errno) {
		l := arg.(*clienttest.List)
		for i := range clienttest.Slice[clienttest.Record](l.Records, min(l.Cap, n)) {
			clienttest.Slice[clienttest.Record](l.Records, l.Cap)[i] = clienttest.Record{
				ID: uint32(i), Parent: client.None, Flags: uint32(client.Crashed), Signo: 11, Cookie: uint64(2 * i),
			}
		}
		l.Count, l.Active, l.Last = n, client.None, 4
		return 0, 0
	}})
	l, err := s.List()
	if err != nil || len(l.Records) != n || l.Active != client.None || l.Last != 4 || l.Held {
		t.Fatalf("%d records, %+v: %v", len(l.Records), l, err)
	}
	if r := l.Find(150); r == nil || r.Cookie != 300 || r.Signal != unix.SIGSEGV || r.Flags != client.Crashed {
		t.Errorf("%+v", r)
	}
	if l.Find(n) != nil {
		t.Error("found what is not there")
	}
}

// TestEditFDs sends more operations than one request takes, of which one fails.
func TestEditFDs(t *testing.T) {
	const bad = 5000
	var seen []int32
	s, _ := session(t, map[string]clienttest.Reply{"FDs": func(arg any) (int, unix.Errno) {
		f := arg.(*clienttest.FDs)
		for _, o := range clienttest.Slice[clienttest.FDOp](f.Ops, f.Count) {
			if o.FD == bad {
				return -1, unix.ENOENT
			}
			seen = append(seen, o.FD)
			f.Done++
		}
		return 0, 0
	}})
	ops := make([]client.FDOp, 6000)
	for i := range ops {
		ops[i] = client.EpollAdd(3, i, unix.EPOLLIN, uint64(i))
	}
	err := s.EditFDs(2, ops)
	if !errors.Is(err, unix.ENOENT) || errors.Is(err, client.ErrNoRecord) || !strings.Contains(err.Error(), "epoll add fd 5000") {
		t.Errorf("%v", err)
	}
	if len(seen) != bad {
		t.Errorf("%d operations were done, want %d", len(seen), bad)
	}
	if err := s.EditFDs(2, nil); err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	s, k := session(t, nil)
	if err := k.Emit(clienttest.Event{Type: uint32(client.EventCrashed), ID: 3, Next: client.None, TID: 12, Signo: 11, Code: 1, Addr: 16}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Events()
	want := client.Event{Type: client.EventCrashed, ID: 3, Next: client.None, TID: 12, Signal: unix.SIGSEGV, Code: 1, Addr: 16}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := k.Emit(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Events(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end", err)
	}
	// Close ends a wait.
	s, k = session(t, nil)
	done := make(chan error)
	go func() {
		_, err := s.Events()
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	if err := k.Emit(); err != nil {
		t.Error(err)
	}
}

func TestStats(t *testing.T) {
	s, _ := session(t, map[string]clienttest.Reply{"Stats": func(arg any) (int, unix.Errno) {
		st := arg.(*clienttest.Stats)
		st.Swaps, st.Threads = 100, 5
		st.Hist[client.HistSwap][10], st.Hist[client.HistSwap][12] = 98, 2
		st.SumNS[client.HistSwap] = 98*1500 + 2*5000
		return 0, 0
	}})
	st, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	h := st.Hist[client.HistSwap]
	if h.Count() != 100 || h.Mean() != 1570 || h.Quantile(0.5) != 2048 || h.Quantile(0.99) != 8192 || h.Quantile(1) != 8192 {
		t.Errorf("count %d mean %v p50 %v p99 %v max %v", h.Count(), h.Mean(), h.Quantile(0.5), h.Quantile(0.99), h.Quantile(1))
	}
	if d := h.Minus(h); d.Count() != 0 || d.Sum != 0 || d.Quantile(0.5) != 0 || d.Mean() != 0 {
		t.Errorf("%+v", d)
	}
	var same client.Histogram
	for range 98 {
		same.Observe(1500)
	}
	same.Observe(5000)
	same.Observe(5000)
	if same != h {
		t.Errorf("counted %+v, want %+v", same, h)
	}
	var out bytes.Buffer
	if err := st.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"threads 5", "swap of a thread", "n 100", "p50 < 2.048µs", "####"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
