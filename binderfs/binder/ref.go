package binder

import (
	"maps"
	"slices"
	"sync/atomic"
)

// Ref is a strong reference to an object of another process. It has to be released. Every Ref that a Reader returns is one
// of its own, even if they lead to the same object.
type Ref struct {
	*remote
	conn     *Conn
	released atomic.Bool
}

// remote is what the Refs to one object share.
type remote struct {
	handle uint32

	// Guarded by the Conn's mu.
	refs     int
	dead     bool
	cookie   uint64 // of the request to be told of the death; 0: none
	watchers map[*func()]struct{}
}

// Handle returns the number by which this process knows the object. It is valid as long as the Ref.
func (r *Ref) Handle() uint32 { return r.handle }

// Same tells whether both lead to the same object.
func (r *Ref) Same(other *Ref) bool { return other != nil && r.remote == other.remote }

// acquire makes a Ref out of a handle that a parcel has brought, before the parcel is given back.
func (c *Conn) acquire(handle uint32) (*Ref, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if handle == 0 {
		return c.ContextManager(), nil
	}
	r := c.remotes[handle]
	if r == nil {
		var room [16]byte
		commands := appendHandle(appendHandle(room[:0], bcIncRefs, handle), bcAcquire, handle)
		if err := c.send(commands); err != nil {
			return nil, err
		}
		r = &remote{handle: handle}
		c.remotes[handle] = r
	}
	r.refs++
	return &Ref{remote: r, conn: c}, nil
}

// Clone returns another reference to the same object, which has to be released as well. The Ref must not be released.
func (r *Ref) Clone() *Ref {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	r.refs++
	return &Ref{remote: r.remote, conn: c}
}

// Release ends the reference. Functions that wait for the object's death are forgotten with the last one.
func (r *Ref) Release() {
	c := r.conn
	if r.remote == &c.manager || r.released.Swap(true) || c.enter() != nil {
		return
	}
	defer c.leave()
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.refs--; r.refs > 0 {
		return
	}
	delete(c.remotes, r.handle)
	c.note(c.send(c.letGo(r.remote)))
}

// letGo forgets the request for a death notification and returns the commands that end all references to the object.
func (c *Conn) letGo(r *remote) []byte {
	var commands []byte
	if r.cookie != 0 && !r.dead {
		commands = appendHandleCookie(commands, bcClearDeath, r.handle, r.cookie)
	}
	delete(c.deaths, r.cookie)
	r.cookie, r.watchers = 0, nil
	return appendHandle(appendHandle(commands, bcRelease, r.handle), bcDecRefs, r.handle)
}

// NotifyDeath has f called once when the process that owns the object is gone, on a goroutine of its own; at once
// if that is known already. stop forgets f. The error is ErrNoThreads if the Conn has no such thread.
func (r *Ref) NotifyDeath(f func()) (stop func(), err error) {
	c := r.conn
	if c.loopers == 0 {
		return nil, ErrNoThreads
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.dead {
		go f()
		return func() {}, nil
	}
	if r.cookie == 0 {
		var commands []byte
		if r.handle == 0 { // the only reference that a process has without having taken it
			commands = appendHandle(appendHandle(commands, bcIncRefs, 0), bcAcquire, 0)
		}
		c.lastID++
		if err := c.send(appendHandleCookie(commands, bcRequestDeath, r.handle, c.lastID)); err != nil {
			return nil, err
		}
		r.cookie = c.lastID
		c.deaths[r.cookie] = r.remote
	}
	if r.watchers == nil {
		r.watchers = map[*func()]struct{}{}
	}
	key := &f
	r.watchers[key] = struct{}{}
	return func() { r.stopWatching(key) }, nil
}

func (r *Ref) stopWatching(key *func()) {
	c := r.conn
	if c.enter() != nil {
		return
	}
	defer c.leave()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := r.watchers[key]; !ok {
		return
	}
	delete(r.watchers, key)
	if len(r.watchers) > 0 {
		return
	}
	if r.handle == 0 {
		c.note(c.send(c.letGo(r.remote)))
		return
	}
	delete(c.deaths, r.cookie)
	c.note(c.send(appendHandleCookie(nil, bcClearDeath, r.handle, r.cookie)))
	r.cookie = 0
}

// died tells those who wait that an object is dead.
func (t *thread) died(cookie uint64) {
	c := t.conn
	t.out = appendPointer(t.out, bcDeadBinderDone, cookie)
	c.mu.Lock()
	r := c.deaths[cookie]
	var watchers []*func()
	if r != nil {
		watchers = slices.Collect(maps.Keys(r.watchers))
		r.dead, r.watchers = true, nil
		delete(c.deaths, cookie)
		if r.handle == 0 { // the next context manager will be another object with the same handle
			t.out = append(t.out, c.letGo(r)...)
			r.dead = false
		}
	}
	c.mu.Unlock()
	for _, f := range watchers {
		go (*f)() // whoever has the thread may hold locks that f needs
	}
}
