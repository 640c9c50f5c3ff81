package binder_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
)

var background = context.Background()

func TestManyThreadsAndPayloads(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			p := conn.NewParcel()
			var reply binder.Reply
			defer reply.Release()
			for i := range 200 {
				data := make([]byte, 4096+4*r.IntN(64))
				for at := 0; at < len(data); at += 8 {
					binary.NativeEndian.PutUint32(data[at:], uint32(g<<16|i))
				}
				p.Reset()
				p.WriteRaw(data)
				if err := service.Transact(background, codeEcho, p, &reply); err != nil {
					t.Error(err)
					return
				}
				if got := reply.Raw(reply.Len()); !bytes.Equal(got, data) {
					t.Errorf("caller %d, call %d: got another caller's bytes", g, i)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestOneWay(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	const n = 2000
	p := conn.NewParcel()
	for i := range n {
		p.Reset()
		p.WriteInt64(int64(i))
		if err := service.Send(background, codeCount, p); err != nil {
			t.Fatal(err)
		}
	}
	roletest.Eventually(t, "all oneway transactions arrive", func() bool { return total(t, service) == n*(n-1)/2 })
}

func total(t *testing.T, service *binder.Ref) int64 {
	t.Helper()
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeTotal, &binder.Parcel{}, &reply); err != nil {
		t.Fatal(err)
	}
	return reply.Int64()
}

func TestNestedCallbacks(t *testing.T) {
	conn, service := connect(t, binder.Options{Threads: 1})
	var threads []int
	var o *binder.Object
	handler := binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
		threads = append(threads, unix.Gettid())
		depth := tx.Data.Int32()
		if depth <= 0 {
			reply.WriteString16("bottom")
			return tx.Data.Err()
		}
		var answer binder.Reply
		defer answer.Release()
		p := conn.NewParcel()
		p.WriteInt32(depth)
		p.WriteBinder(o)
		if err := service.Transact(background, codeCallback, p, &answer); err != nil {
			return err
		}
		reply.WriteString16(fmt.Sprintf("%d/%s", depth, answer.String16()))
		return answer.Err()
	})
	o, err := conn.NewObject("test.ICallback", handler)
	if err != nil {
		t.Fatal(err)
	}
	p := conn.NewParcel()
	p.WriteInt32(4)
	p.WriteBinder(o)
	var reply binder.Reply
	defer reply.Release()
	for range 5 {
		threads = nil
		if err := service.Transact(background, codeCallback, p, &reply); err != nil {
			t.Fatal(err)
		}
		if s := reply.String16(); s != "3/2/1/bottom" || reply.Err() != nil {
			t.Fatalf("got %q, %v", s, reply.Err())
		}
		for _, tid := range threads {
			if tid != threads[0] || len(threads) != 4 {
				t.Fatalf("callbacks of one call came on the threads %v", threads)
			}
		}
	}
}

// A callback that fails must not be taken for the end of the call that it is nested in.
func TestFailingCallback(t *testing.T) {
	conn, service := connect(t, binder.Options{Threads: 1})
	o, err := conn.NewObject("test.ICallback", binder.HandlerFunc(func(*binder.Transaction, *binder.Parcel) error {
		return binder.StatusInvalidOperation
	}))
	if err != nil {
		t.Fatal(err)
	}
	p := conn.NewParcel()
	p.WriteInt32(1)
	p.WriteBinder(o)
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeCallback, p, &reply); !errors.Is(err, binder.StatusInvalidOperation) {
		t.Fatalf("got %v", err)
	}
}

func TestStatusAndUnknownTransaction(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	p := conn.NewParcel()
	p.WriteInt32(int32(binder.StatusNameNotFound))
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeFail, p, &reply); !errors.Is(err, binder.StatusNameNotFound) {
		t.Fatalf("got %v", err)
	}
	if err := service.Transact(background, 4711, p, &reply); !errors.Is(err, binder.StatusUnknownTransaction) {
		t.Fatalf("got %v", err)
	}
	if err := service.Transact(background, codeTotal, p, &reply); err != nil {
		t.Fatal(err)
	}
	reply.Int64()
	reply.Int64()
	if !errors.Is(reply.Err(), io.ErrUnexpectedEOF) {
		t.Fatalf("read beyond the end: %v", reply.Err())
	}
}

func TestTooLargeForTheReceiver(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	p := conn.NewParcel()
	p.WriteRaw(make([]byte, 2<<20))
	var reply binder.Reply
	defer reply.Release()
	err := service.Transact(background, codeEcho, p, &reply)
	var call *binder.CallError
	if !errors.Is(err, binder.ErrFailed) || !errors.As(err, &call) {
		t.Fatalf("got %v", err)
	}
	if call.Errno == 0 {
		t.Error("the kernel's extended error is missing") // every kernel of the VM lane has it
	}
	if err := service.Ping(background); err != nil {
		t.Fatalf("after the failure: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	_, service := connect(t, binder.Options{})
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeIdentity, &binder.Parcel{}, &reply); err != nil {
		t.Fatal(err)
	}
	if pid, uid := int(reply.Int32()), int(reply.Int32()); pid != os.Getpid() || uid != os.Geteuid() {
		t.Fatalf("the service sees pid %d uid %d", pid, uid)
	}
}

func TestCancel(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	p := conn.NewParcel()
	p.WriteInt64(int64(time.Hour))
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(ctx, codeSleep, p, &reply); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := service.Ping(background); err != nil {
		t.Fatalf("after the cancelled call: %v", err)
	}
}

func TestCloseEndsCallsThatWait(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	roletest.Start(t, "service", device)
	conn, err := binder.Open(device, binder.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	service := get(t, conn, "service")
	var started sync.WaitGroup
	result := make(chan error, 4)
	for range 4 {
		started.Add(1)
		go func() {
			var reply binder.Reply
			defer reply.Release()
			p := conn.NewParcel()
			p.WriteInt64(int64(time.Hour))
			started.Done()
			result <- service.Transact(background, codeSleep, p, &reply)
		}()
	}
	started.Wait()
	time.Sleep(20 * time.Millisecond)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := <-result; !errors.Is(err, binder.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if err := service.Ping(background); !errors.Is(err, binder.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestReplyOutlivesItsConnection(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	roletest.Start(t, "service", device)
	conn, err := binder.Open(device, binder.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := conn.NewParcel()
	p.WriteInt32(42)
	var reply binder.Reply
	if err := get(t, conn, "service").Transact(background, codeEcho, p, &reply); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if n := reply.Int32(); n != 0 {
		t.Errorf("read %d from a buffer that the driver has taken back", n)
	}
	reply.Release()
}

func TestSignalsDoNotDisturb(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	var stop atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		for !stop.Load() { // what Go's scheduler does to threads, only more of it
			tasks, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Error(err)
				return
			}
			for _, task := range tasks {
				var tid int
				if _, err := fmt.Sscan(task.Name(), &tid); err == nil {
					_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // the thread may be gone
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	p := conn.NewParcel()
	var reply binder.Reply
	for i := range 1000 {
		p.Reset()
		p.WriteInt32(int32(i))
		if err := service.Transact(background, codeEcho, p, &reply); err != nil {
			t.Fatal(err)
		}
		if n := reply.Int32(); n != int32(i) {
			t.Fatalf("call %d was answered with %d", i, n)
		}
		if err := service.Send(background, codeCount, one); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	group.Wait()
	reply.Release()
	roletest.Eventually(t, "each oneway transaction arrives once", func() bool { return total(t, service) == 1000 })
}

var one = func() *binder.Parcel {
	p := binder.NewParcel(binder.AIDL3)
	p.WriteInt64(1)
	return p
}()
