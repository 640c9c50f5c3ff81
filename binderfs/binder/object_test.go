package binder_test

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
)

func TestFileDescriptors(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := conn.NewParcel()
	p.WriteFD(int(w.Fd()))
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeFDs, p, &reply); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "from the service" { // an end: the service has closed its duplicate
		t.Fatalf("read %q, %v", text, err)
	}
	fd := reply.FD()
	if reply.Err() != nil {
		t.Fatal(reply.Err())
	}
	got := os.NewFile(uintptr(fd), "stdin of the service")
	if _, err := got.Stat(); err != nil {
		t.Error(err)
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
	before := descriptors(t)
	for range 20 { // the descriptors in these replies are never asked for
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p.Reset()
		p.WriteFD(int(w.Fd()))
		if err := service.Transact(background, codeFDs, p, &reply); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	reply.Release()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestFDArray(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const n = 5
	list := make([]byte, 8+4*n)
	for i := range n {
		binary.NativeEndian.PutUint32(list[8+4*i:], uint32(w.Fd()))
	}
	p := conn.NewParcel()
	p.WriteInt32(0)
	parent := p.WriteBuffer(list)
	p.WriteFDArray(parent, 8, n)
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeFDArray, p, &reply); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "xxxxx" {
		t.Fatalf("read %q, %v", text, err)
	}
}

func TestBuffers(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	outer := append([]byte("outer "), make([]byte, 10)...)
	p := conn.NewParcel()
	p.WriteInt32(0)
	parent := p.WriteBuffer(outer)
	p.WriteBufferIn(parent, 8, []byte("inner, of some length"))
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeBuffers, p, &reply); err != nil {
		t.Fatal(err)
	}
	a, b := reply.Bytes(), reply.Bytes()
	if reply.Err() != nil || string(a[:6]) != "outer " || string(b) != "inner, of some length" {
		t.Fatalf("got %q, %q, %v", a, b, reply.Err())
	}
	if address := binary.NativeEndian.Uint64(a[8:]); address == 0 {
		t.Error("the driver has not put the inner buffer's address into the outer one")
	}
}

func TestObjectsAreReferenced(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	peer := roletest.Start(t, "service", device)
	conn := open(t, device, binder.Options{Threads: 1})
	service := get(t, conn, "service")
	var sum atomic.Int64
	o, err := conn.NewObject("test.ICounter", binder.HandlerFunc(func(tx *binder.Transaction, _ *binder.Parcel) error {
		sum.Add(tx.Data.Int64())
		return tx.Data.Err()
	}))
	if err != nil {
		t.Fatal(err)
	}
	if o.Referenced() {
		t.Error("referenced before anybody knew it")
	}
	for i := range 10 {
		p := conn.NewParcel()
		p.WriteBinder(o)
		p.WriteInt64(int64(i))
		if err := service.Send(background, codeAsync, p); err != nil {
			t.Fatal(err)
		}
	}
	roletest.Eventually(t, "the service calls the object", func() bool { return sum.Load() == 45 })
	roletest.Eventually(t, "the service drops its references", func() bool { return !o.Referenced() })
	peer.Kill(t)
}

func TestSessionObjects(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	var reply binder.Reply
	defer reply.Release()
	var sessions []*binder.Ref
	for range 10 {
		if err := service.Transact(background, codeNewObject, &binder.Parcel{}, &reply); err != nil {
			t.Fatal(err)
		}
		session := reply.Ref()
		if reply.Err() != nil {
			t.Fatal(reply.Err())
		}
		for _, other := range sessions {
			if other.Same(session) {
				t.Fatal("two sessions are one object")
			}
		}
		sessions = append(sessions, session)
	}
	p := conn.NewParcel()
	p.WriteInt32(1)
	for _, session := range sessions {
		if err := session.Transact(background, codeEcho, p, &reply); err != nil {
			t.Fatal(err)
		}
		session.Release()
		session.Release() // again: nothing happens
	}
	again := service.Clone()
	defer again.Release()
	if !again.Same(service) {
		t.Error("a clone leads to another object")
	}
}

func TestDeath(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	peer := roletest.Start(t, "service", device)
	conn := open(t, device, binder.Options{Threads: 1})
	service := get(t, conn, "service")
	died := make(chan int, 4)
	for i := range 2 {
		if _, err := service.NotifyDeath(func() { died <- i }); err != nil {
			t.Fatal(err)
		}
	}
	stop, err := service.NotifyDeath(func() { t.Error("told of a death that it has stopped waiting for") })
	if err != nil {
		t.Fatal(err)
	}
	stop()
	waiting := make(chan error)
	go func() {
		var reply binder.Reply
		defer reply.Release()
		p := conn.NewParcel()
		p.WriteInt64(int64(time.Hour))
		waiting <- service.Transact(background, codeSleep, p, &reply)
	}()
	time.Sleep(20 * time.Millisecond)
	peer.Kill(t)
	if err := <-waiting; !errors.Is(err, binder.ErrDead) {
		t.Errorf("the call under way: %v", err)
	}
	if a, b := <-died, <-died; a == b {
		t.Error("one was told twice")
	}
	if err := service.Ping(background); !errors.Is(err, binder.ErrDead) {
		t.Errorf("ping of a dead object: %v", err)
	}
	if _, err := service.NotifyDeath(func() { died <- 3 }); err != nil {
		t.Fatal(err)
	}
	<-died // at once
}

func TestManagerDeath(t *testing.T) {
	device := roletest.Device(t)
	conn := open(t, device, binder.Options{Threads: 1})
	for range 2 { // the next manager has the same handle
		manager := roletest.Start(t, "manager", device)
		died := make(chan struct{})
		if _, err := conn.ContextManager().NotifyDeath(func() { close(died) }); err != nil {
			t.Fatal(err)
		}
		manager.Kill(t)
		<-died
	}
}

func TestClosedObject(t *testing.T) {
	conn, service := connect(t, binder.Options{Threads: 1})
	o, err := conn.NewObject("test.IClosed", binder.HandlerFunc(echo))
	if err != nil {
		t.Fatal(err)
	}
	p := conn.NewParcel()
	p.WriteInt32(1)
	p.WriteBinder(o)
	o.Close()
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeCallback, p, &reply); !errors.Is(err, binder.StatusDeadObject) {
		t.Fatalf("got %v", err)
	}
}

func TestFreeze(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	peer := roletest.Start(t, "service", device)
	conn := open(t, device, binder.Options{})
	service := get(t, conn, "service")
	pid := peer.PID
	if err := conn.Freeze(pid, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := service.Ping(background); !errors.Is(err, binder.ErrFrozen) {
		t.Errorf("ping of a frozen process: %v", err)
	}
	if err := service.Send(background, codeCount, one); err != nil {
		t.Errorf("oneway transaction to a frozen process: %v", err)
	}
	if info, err := conn.FrozenInfo(pid); err != nil || !info.SyncReceived || !info.AsyncReceived {
		t.Errorf("frozen info %+v, %v", info, err)
	}
	if err := conn.Unfreeze(pid); err != nil {
		t.Fatal(err)
	}
	roletest.Eventually(t, "what has waited arrives", func() bool { return total(t, service) == 1 })

	p := conn.NewParcel()
	p.WriteInt64(int64(10 * time.Second))
	done := make(chan error)
	go func() {
		var reply binder.Reply
		defer reply.Release()
		done <- service.Transact(background, codeSleep, p, &reply)
	}()
	time.Sleep(50 * time.Millisecond)
	if err := conn.Freeze(pid, 10*time.Millisecond); !errors.Is(err, binder.ErrBusy) {
		t.Errorf("freeze of a process that is in a transaction: %v", err)
	}
	peer.Kill(t)
	if err := <-done; !errors.Is(err, binder.ErrDead) {
		t.Errorf("the call under way: %v", err)
	}
	if err := conn.Freeze(1<<22+1, 0); err == nil {
		t.Error("froze a process that is not there")
	}
}

func TestServingNeedsThreads(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	if _, err := conn.NewObject("test.INone", binder.HandlerFunc(echo)); !errors.Is(err, binder.ErrNoThreads) {
		t.Errorf("object: %v", err)
	}
	if _, err := service.NotifyDeath(func() {}); !errors.Is(err, binder.ErrNoThreads) {
		t.Errorf("death: %v", err)
	}
}
