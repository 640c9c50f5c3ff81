package binder_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// startRelay publishes an object that passes everything on to the service.
func startRelay(device string) (func() error, error) {
	conn, err := binder.Open(device, binder.Options{Threads: 8})
	if err != nil {
		return nil, err
	}
	manager := servicemanager.NewClient(conn, servicemanager.AIDL3)
	ref, err := manager.Get(context.Background(), "service")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	relays := sync.Pool{New: func() any { return new(binder.Relay) }}
	o, err := conn.NewRawObject(binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
		x := relays.Get().(*binder.Relay)
		x.Request(tx)
		if tx.OneWay {
			return x.Send(tx, ref)
		}
		return x.Transact(tx, ref, reply, func() { relays.Put(x) })
	}))
	if err == nil {
		err = manager.Add(context.Background(), "relayed.service", o)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() error {
		ref.Release()
		return errors.Join(conn.Close(), conn.Err())
	}, nil
}

// Whatever is in a transaction and its reply goes through a relay, and calls back find the thread that waits.
func TestRelay(t *testing.T) {
	relayed = true
	defer func() { relayed = false }()
	for name, test := range map[string]func(*testing.T){
		"descriptors": TestFileDescriptors, "descriptor array": TestFDArray, "buffers": TestBuffers, "nested": TestNestedCallbacks,
		"failing": TestFailingCallback, "status": TestStatusAndUnknownTransaction, "objects": TestSessionObjects,
		"payloads": TestManyThreadsAndPayloads, "oneway": TestOneWay,
	} {
		t.Run(name, test)
	}
}

// References in what is passed on can be replaced; what it came from stays as it is, and so does the rest.
func TestReplaceInForeignParcel(t *testing.T) {
	conn, service := connect(t, binder.Options{Threads: 1})
	o, err := conn.NewObject("test.IOne", binder.HandlerFunc(func(*binder.Transaction, *binder.Parcel) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	other, err := conn.NewObject("test.IOther", binder.HandlerFunc(func(*binder.Transaction, *binder.Parcel) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	p := conn.NewParcel()
	p.WriteInt32(7)
	p.WriteBinder(o)
	p.WriteBinder(service)
	var reply binder.Reply
	defer reply.Release()
	if err := service.Transact(background, codeEchoObjects, p, &reply); err != nil {
		t.Fatal(err)
	}
	var q binder.Parcel
	q.Forward(&reply.Reader)
	if n := q.Objects(); n != 2 {
		t.Fatalf("%d objects came back", n)
	}
	if kind, id := q.Object(0); kind != binder.KindOwn || id != o.ID() {
		t.Errorf("the first object is of kind %d, number %d; want this process' %d", kind, id, o.ID())
	}
	if kind, handle := q.Object(1); kind != binder.KindRemote || handle != uint64(service.Handle()) {
		t.Errorf("the second object is of kind %d, handle %d; want %d", kind, handle, service.Handle())
	}
	q.Replace(0, service)
	q.Replace(1, other)
	if kind, handle := q.Object(0); kind != binder.KindRemote || handle != uint64(service.Handle()) {
		t.Errorf("the first object has become kind %d, %d", kind, handle)
	}
	if kind, id := q.Object(1); kind != binder.KindOwn || id != other.ID() {
		t.Errorf("the second object has become kind %d, %d", kind, id)
	}
	if got := q.Reader().Int32(); got != 7 {
		t.Errorf("the number before them is %d", got)
	}
	if reply.Int32() != 7 || reply.Binder() != binder.Binder(o) {
		t.Error("the reply itself has changed")
	}
	q.Reset()
	q.WriteInt32(1) // into memory of its own
	if q.Len() != 4 || q.Objects() != 0 {
		t.Errorf("after Reset the parcel has %d bytes and %d objects", q.Len(), q.Objects())
	}
}
