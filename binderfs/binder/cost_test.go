package binder_test

import (
	"slices"
	"testing"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// Neither the caller nor the one that serves allocates memory for a transaction. Both are in this process.
func TestNoAllocations(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	server := open(t, device, binder.Options{Threads: 1})
	o, err := server.NewObject("test.IEcho", binder.HandlerFunc(echo))
	if err != nil {
		t.Fatal(err)
	}
	if err := servicemanager.NewClient(server, servicemanager.AIDL3).Add(background, "echo", o); err != nil {
		t.Fatal(err)
	}
	client := open(t, device, binder.Options{})
	service := get(t, client, "echo")
	p := client.NewParcel()
	var reply binder.Reply
	defer reply.Release()
	n := testing.AllocsPerRun(500, func() {
		p.Reset()
		p.WriteInterfaceToken("test.IEcho")
		p.WriteInt64(1)
		if err := service.Transact(background, codeEcho, p, &reply); err != nil {
			t.Fatal(err)
		}
		if err := service.Send(background, codeEcho, p); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%.0f allocations for a call and a oneway call", n)
	}
}

// BenchmarkTransact is the round trip of 128 bytes between two processes.
func BenchmarkTransact(b *testing.B) {
	conn, service := connect(b, binder.Options{})
	p := conn.NewParcel()
	p.WriteRaw(make([]byte, 128))
	var reply binder.Reply
	defer reply.Release()
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if err := service.Transact(background, codeEcho, p, &reply); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
}
