package binder_test

import (
	"context"
	"errors"
	"testing"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
)

func TestManager(t *testing.T) {
	device := roletest.Device(t)
	client := open(t, device, binder.Options{})
	if err := client.Ping(context.Background()); !errors.Is(err, binder.ErrDead) {
		t.Fatalf("ping without a context manager: %v", err)
	}
	manager := roletest.Start(t, "manager", device)
	if err := client.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	other := open(t, device, binder.Options{Threads: 1})
	if _, err := other.BecomeContextManager("test", binder.HandlerFunc(echo)); !errors.Is(err, binder.ErrManagerTaken) {
		t.Fatalf("second context manager: %v", err)
	}
	if name, err := client.ContextManager().Interface(context.Background()); err != nil || name != "android.os.IServiceManager" {
		t.Fatalf("interface %q, %v", name, err)
	}
	if err := manager.End(); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(context.Background()); !errors.Is(err, binder.ErrDead) {
		t.Fatalf("ping after the end of the context manager: %v", err)
	}
	roletest.Start(t, "manager", device)
	if err := client.Ping(context.Background()); err != nil {
		t.Fatalf("ping of the next context manager: %v", err)
	}
}

func TestEcho(t *testing.T) {
	conn, service := connect(t, binder.Options{})
	p := conn.NewParcel()
	p.WriteInt32(7)
	p.WriteString16("grüße 𝄞")
	var reply binder.Reply
	defer reply.Release()
	for range 3 {
		if err := service.Transact(context.Background(), codeEcho, p, &reply); err != nil {
			t.Fatal(err)
		}
		if n, s := reply.Int32(), reply.String16(); n != 7 || s != "grüße 𝄞" || reply.Err() != nil {
			t.Fatalf("got %d, %q, %v", n, s, reply.Err())
		}
	}
}
