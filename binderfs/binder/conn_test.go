package binder_test

import (
	"context"
	"errors"
	"testing"

	"corsa.dev/corsa/binderfs/binder"
)

func TestPingNeedsAManager(t *testing.T) {
	device := newDevice(t)
	client := open(t, device, binder.Options{})
	if err := client.Ping(context.Background()); !errors.Is(err, binder.ErrDead) {
		t.Fatalf("ping without a context manager: %v", err)
	}
	server := open(t, device, binder.Options{Threads: 1})
	if _, err := server.BecomeContextManager("test", binder.HandlerFunc(echo)); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	other := open(t, device, binder.Options{Threads: 1})
	if _, err := other.BecomeContextManager("test", binder.HandlerFunc(echo)); !errors.Is(err, binder.ErrManagerTaken) {
		t.Fatalf("second context manager: %v", err)
	}
	if name, err := client.ContextManager().Interface(context.Background()); err != nil || name != "test" {
		t.Fatalf("interface %q, %v", name, err)
	}
}
