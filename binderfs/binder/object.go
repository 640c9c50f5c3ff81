package binder

// Binder is a reference to an object: an *Object of this process or a *Ref to one of another.
type Binder interface {
	// Interface names are asked for with Ref.Interface and told to NewObject.
	isBinder()
}

func (*Object) isBinder() {}
func (*Ref) isBinder()    {}

// Object is something that other processes can call, once a parcel has brought them a reference to it. It stays callable
// until it is closed.
type Object struct {
	conn       *Conn
	id         uint64 // by which the driver calls it
	descriptor string
	handler    Handler
	raw        bool // the handler answers everything
	refs       int  // kinds of references, strong and weak, that the driver holds for others; guarded by conn.mu
}

// NewObject makes an object whose interface is called descriptor. The error is ErrNoThreads if the Conn has none to serve it.
func (c *Conn) NewObject(descriptor string, h Handler) (*Object, error) {
	if c.loopers == 0 {
		return nil, ErrNoThreads
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	o := &Object{conn: c, id: c.lastID, descriptor: descriptor, handler: h}
	c.objects[o.id] = o
	return o, nil
}

// NewRawObject makes an object whose handler gets every transaction, also those that other objects answer by themselves.
func (c *Conn) NewRawObject(h Handler) (*Object, error) {
	o, err := c.NewObject("", h)
	if err == nil {
		o.raw = true
	}
	return o, err
}

// ID returns the number by which the driver calls the object.
func (o *Object) ID() uint64 { return o.id }

// Close ends the object: who still has a reference gets StatusDeadObject. It does not wait for handlers that run.
func (o *Object) Close() {
	o.conn.mu.Lock()
	defer o.conn.mu.Unlock()
	delete(o.conn.objects, o.id)
}

// Referenced tells whether any other process has a reference to the object, as far as the driver has told by now.
func (o *Object) Referenced() bool {
	o.conn.mu.RLock()
	defer o.conn.mu.RUnlock()
	return o.refs > 0
}

// object returns the object of that id, nil if it is closed or was never there.
func (c *Conn) object(id uint64) *Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[id]
}

// count notes that the driver takes or drops a reference for other processes, and tells it that a taken one is noted. That
// an object is closed does not matter to the driver: its calls are answered by a status.
func (t *thread) count(cmd command, id, cookie uint64) {
	c := t.conn
	c.mu.Lock()
	if o := c.objects[id]; o != nil {
		if cmd == brIncRefs || cmd == brAcquire {
			o.refs++
		} else {
			o.refs--
		}
	}
	c.mu.Unlock()
	switch cmd {
	case brIncRefs:
		t.out = appendPtrCookie(t.out, bcIncRefsDone, id, cookie)
	case brAcquire:
		t.out = appendPtrCookie(t.out, bcAcquireDone, id, cookie)
	}
}
