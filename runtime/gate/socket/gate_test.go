package socket

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"
)

func TestAppsHaveTheirOwnInstance(t *testing.T) {
	w := newWorld(t)
	g, addr := w.open(declare(t.TempDir()))
	a, b := dial(t, "unix", addr), dial(t, "unix", addr)
	a.must("1", "incr")
	a.must("2", "incr")
	b.must("1", "incr")
	a.must("3", "incr")
	var tx uint64
	for _, s := range g.Stats() {
		tx += s.Transactions
	}
	if tx < 4 {
		t.Errorf("%d transactions counted, 4 were made", tx)
	}
}

// Numbered streams survive every switch, and no two instances are ever active together.
func TestNumberedStreamsThroughSwitches(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	var wg sync.WaitGroup
	for range 4 {
		c := dial(t, "unix", addr)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 1; i <= 300; i++ {
				got, err := c.ask("incr")
				if err != nil || got != strconv.Itoa(i) {
					t.Errorf("request %d: %q, %v", i, got, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if w.parks.Load() < 4 {
		t.Errorf("only %d parks: the streams did not take turns", w.parks.Load())
	}
}

func TestAppAloneIsNeverParked(t *testing.T) {
	w := newWorld(t)
	_, addr := w.open(declare(t.TempDir()))
	c := dial(t, "unix", addr)
	c.must("1", "incr")
	time.Sleep(50 * time.Millisecond) // the probe connection of open is an app too
	before := w.parks.Load()
	for i := range 500 {
		c.must(fmt.Sprint(i+2), "incr")
	}
	if n := w.parks.Load() - before; n > 0 {
		t.Errorf("parked %d times", n)
	}
}
