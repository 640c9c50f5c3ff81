package route

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
)

// ErrFull says that MaxSpares are on offer, or claimed and not acknowledged.
var ErrFull = errors.New("no room for another spare")

// ErrClosed says that the router was closed.
var ErrClosed = errors.New("the router is closed")

// Spare is an offer, as long as the program lives.
type Spare int

// Claim tells that an app which had no way has got a spare.
type Claim struct {
	Spare Spare
	UID   uint32
	To    []string // as it was offered
}

// AllowClaims says whether apps that are not known may claim spares, which is not so in the beginning. It must be false
// unless everybody may connect to the public sockets: a claim is made before any permission is checked.
func (r *Router) AllowClaims(yes bool) {
	var v uint32
	if yes {
		v = 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	atomic.StoreUint32(&r.settings.Claims, v)
}

// Offer lets the next app without a way have the listeners to, one for each public name. An instance can be offered that
// sleeps: what arrives waits in the backlog.
func (r *Router) Offer(to []string) (Spare, error) {
	names, err := parseNames(to)
	if err != nil {
		return 0, err
	}
	if len(to) != r.public {
		return 0, fmt.Errorf("a spare with %d listeners for %d public names", len(to), r.public)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, ErrClosed
	}
	for i := range r.spares {
		s := &r.spares[i]
		if atomic.LoadUint32(&s.State) == spareNone {
			s.Way.To = names
			atomic.StoreUint32(&s.State, spareOffered)
			return Spare(i), nil
		}
	}
	return 0, ErrFull
}

// Offers returns what is on offer and has not been claimed.
func (r *Router) Offers() map[Spare][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[Spare][]string{}
	if r.closed {
		return all
	}
	for i := range r.spares {
		if s := &r.spares[i]; atomic.LoadUint32(&s.State) == spareOffered {
			all[Spare(i)] = texts(&s.Way.To, r.public)
		}
	}
	return all
}

// Withdraw takes an offer back. It returns false if the spare has been claimed, or the router is closed.
func (r *Router) Withdraw(id Spare) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	state := &r.spares[id].State
	for {
		switch atomic.LoadUint32(state) {
		case spareOffered:
			if atomic.CompareAndSwapUint32(state, spareOffered, spareNone) {
				return true
			}
		case spareTaking:
			runtime.Gosched() // a connect() is deciding, which takes no longer than a microsecond
		case spareNone:
			return true
		default:
			return false
		}
	}
}

// Claims reports every claim until it is acknowledged: also those that a dead monitor has left. It is closed by Close.
func (r *Router) Claims() <-chan Claim { return r.claims }

// Acknowledge frees the place of a claimed spare. The app's way stays.
func (r *Router) Acknowledge(c Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.reported[c.Spare] = false
	atomic.StoreUint32(&r.spares[c.Spare].State, spareNone)
}

// listen looks for claims whenever there may be one.
func (r *Router) listen() {
	defer close(r.done)
	defer close(r.claims)
	for {
		if _, err := r.reader.Read(); err != nil {
			return // closed
		}
		r.scan()
	}
}

// scan reports the claims that have not been.
func (r *Router) scan() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for i := range r.spares {
		s := &r.spares[i]
		if atomic.LoadUint32(&s.State) != spareClaimed || r.reported[i] {
			continue
		}
		r.reported[i] = true
		r.claims <- Claim{Spare: Spare(i), UID: s.Uid, To: texts(&s.Way.To, r.public)} // there is room for every spare
	}
}
