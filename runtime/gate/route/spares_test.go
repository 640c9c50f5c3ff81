package route

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestClaims: new apps that connect all at once, in two processes each, get one spare each as long as there are any.
func TestClaims(t *testing.T) {
	const apps, spares, firstUID = 10, 8, 2000
	r, public, dir := one(t)
	for i := range spares {
		name := fmt.Sprintf("%s/spare%d", dir, i)
		serve(t, "unix", name, fmt.Sprint("spare", i))
		if _, err := r.Offer([]string{name}); err != nil {
			t.Fatal(err)
		}
	}
	app := func(uid int) client { return client{UID: uid, Names: []string{public}, Times: 3} }
	app(firstUID).reaches(t, "public") // nobody may claim yet
	r.AllowClaims(true)
	if _, err := r.Reserve(firstUID); err != nil {
		t.Fatal(err)
	}
	app(firstUID).reaches(t, "public")

	var waits []func() []answer
	for i := range 2 * apps {
		waits = append(waits, app(firstUID+1+i/2).start(t))
	}
	owner := map[string]uint32{}
	got := map[uint32]string{}
	for i, wait := range waits {
		uid := uint32(firstUID + 1 + i/2)
		for _, a := range wait() {
			if a.Err != "" || a.UID != uid {
				t.Errorf("uid %d: %+v", uid, a)
			}
			if before := got[uid]; before != "" && before != a.From {
				t.Errorf("uid %d arrived at %s and at %s", uid, before, a.From)
			}
			got[uid] = a.From
			if a.From == "public" {
				continue
			}
			if o := owner[a.From]; o != 0 && o != uid {
				t.Errorf("%s serves uids %d and %d", a.From, o, uid)
			}
			owner[a.From] = uid
		}
	}
	if len(owner) != spares {
		t.Errorf("%d of %d spares were claimed: %v", len(owner), spares, owner)
	}
	for range spares {
		select {
		case c := <-r.Claims():
			if want := got[c.UID]; c.To[0] != dir+"/"+want {
				t.Errorf("claim %+v; its app arrived at %s", c, want)
			}
			r.Acknowledge(c)
		case <-time.After(5 * time.Second):
			t.Fatal("a claim is not reported")
		}
	}
	if ways, err := r.Ways(); err != nil || len(ways) != spares+2 {
		t.Errorf("%d ways, %v", len(ways), err)
	}
	// The two that are left over get what is offered next.
	for range apps - spares {
		if _, err := r.Offer([]string{dir + "/own"}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range apps {
		if uid := firstUID + 1 + i; got[uint32(uid)] == "public" {
			app(uid).reaches(t, "own")
		}
	}
}

// keepBeating keeps routes valid to the end of the test, or until it is stopped.
func keepBeating(t *testing.T, r *Router) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	r.Beat()
	go func() {
		defer close(over)
		for {
			r.Beat()
			select {
			case <-done:
				return
			case <-time.After(Validity / 10):
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(done)
		<-over
	})
	t.Cleanup(stop)
	return stop
}

// TestReserve: an app that is to get an instance of its own does not claim a spare, and one that has claimed is known.
func TestReserve(t *testing.T) {
	r, public, dir := one(t)
	r.AllowClaims(true)
	if _, err := r.Offer([]string{dir + "/own"}); err != nil {
		t.Fatal(err)
	}
	if way, err := r.Reserve(1002); way != nil || err != nil {
		t.Fatalf("reserve: %v, %v", way, err)
	}
	client{UID: 1002, Names: []string{public}}.reaches(t, "public")
	client{UID: 1003, Names: []string{public}}.reaches(t, "own")
	if way, err := r.Reserve(1003); err != nil || len(way) != 1 || way[0] != dir+"/own" {
		t.Errorf("reserve: %v, %v", way, err)
	}
	if way, err := r.Way(1002); way != nil || err != nil {
		t.Errorf("way: %v, %v", way, err)
	}
}

// TestOffers: what is withdrawn is not claimed, and there is an end to what can be offered.
func TestOffers(t *testing.T) {
	r, public, dir := one(t)
	r.AllowClaims(true)
	s, err := r.Offer([]string{dir + "/own"})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Withdraw(s) {
		t.Error("it cannot be withdrawn")
	}
	client{UID: 1002, Names: []string{public}}.reaches(t, "public")
	for range MaxSpares {
		if _, err := r.Offer([]string{dir + "/own"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Offer([]string{dir + "/own"}); !errors.Is(err, ErrFull) {
		t.Errorf("offer: %v", err)
	}
	client{UID: 1002, Names: []string{public}}.reaches(t, "own")
	c := <-r.Claims()
	if r.Withdraw(c.Spare) {
		t.Error("a claimed spare was withdrawn")
	}
	r.Acknowledge(c)
	if n := len(r.Offers()); n != MaxSpares-1 {
		t.Errorf("%d offers, want %d", n, MaxSpares-1)
	}
	if _, err := r.Offer(nil); err == nil {
		t.Error("a spare without a listener")
	}
}
