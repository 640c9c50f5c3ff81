package binder_test

import (
	"errors"
	"os"
	"testing"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
)

// newDevice returns the path of a new Binder device in a mount of its own.
func newDevice(t *testing.T) string {
	t.Helper()
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem {
		t.Skipf("binder: %s", s.Detail)
	}
	if os.Geteuid() != 0 {
		t.Skip("binder: mounting binderfs needs root")
	}
	fs, err := binderfs.Mount(t.TempDir(), binderfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	d, err := fs.AddDevice("binder")
	if err != nil {
		t.Fatal(err)
	}
	return d.Path
}

func open(t *testing.T, device string, o binder.Options) *binder.Conn {
	t.Helper()
	c, err := binder.Open(device, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Err()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// echo answers with what it has got.
func echo(tx *binder.Transaction, reply *binder.Parcel) error {
	reply.WriteRaw(tx.Data.Raw(tx.Data.Remaining()))
	return tx.Data.Err()
}
