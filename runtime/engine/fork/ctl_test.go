package fork

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// An instance that wrote over its agent's page may have left something behind that counts and wakes for ever.
func TestAwaitOfAPageThatIsNeverQuiet(t *testing.T) {
	fd, err := unix.MemfdCreate("ctl", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		t.Fatal(err)
	}
	c, err := mapCtl(fd)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for !stop.Load() {
			atomic.StoreUint32(c.word(ctlDone), 7+atomic.LoadUint32(c.word(ctlDone))&1)
			c.wake(ctlDone)
		}
	}()
	defer func() {
		stop.Store(true)
		<-stopped
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, v := range []struct {
		name  string
		alive bool
		limit time.Duration
		want  error
	}{{"dead", false, time.Hour, engine.ErrGone}, {"late", true, time.Millisecond, context.DeadlineExceeded}} {
		ctx, cancel := context.WithTimeout(t.Context(), v.limit)
		defer cancel()
		got := make(chan error, 1)
		go func() { got <- c.await(ctx, 3, func() bool { return v.alive }) }()
		select {
		case err := <-got:
			if !errors.Is(err, v.want) {
				t.Errorf("%s: %v, want %v", v.name, err, v.want)
			}
		case <-time.After(20 * time.Second):
			atomic.StoreUint32(c.word(ctlDone), 3)
			t.Fatalf("%s: await does not return", v.name)
		}
	}
}
