package socket

import (
	"errors"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

// An end is one of the two sockets of a connection. Both are registered edge-triggered once, so readable stands
// until a read finds the socket empty.
type end struct {
	fd       int // -1: none
	slot     int32
	unix     bool
	readable bool
	hup      bool // more than plain bytes has to be read: an end of file or an error
	wantOut  bool // registered for writability too
}

// A flow is one direction of a connection.
type flow struct {
	buf     []byte // unsent bytes; from the pool, nil if there are none
	off     int    // of the first unsent byte
	cut     bool   // some of what was read together with these bytes has been sent
	fds     []int  // descriptors that go with that byte
	eof     bool   // the source has ended
	shut    bool   // and the destination was told
	stash   stash  // a byte with descriptors that has been read already
	careful bool   // descriptors may come: keep them apart from the bytes before them
}

func (f *flow) pending() bool { return f.buf != nil }

// A conn is an app's connection: its end a, and the gate's end s of the connection to the app's instance.
type conn struct {
	id       engine.ConnID
	app      *app
	pos      int // in app.conns
	endpoint int
	a, s     end
	up, down flow // app to service, service to app

	open     bool // a request was forwarded and nothing has come back
	long     bool // open for longer than a quantum
	linger   bool // the app has gone; the service has yet to notice
	fresh    bool // perhaps not accepted yet by the service
	closed   bool
	doomed   bool // without an instance: its next request gets the crash reply
	parting  bool // it has got the crash reply, and is closed once the app has read that
	unsure   bool // a crash may have cut off a reply on it
	lost     bool // the instance's end broke before the service had consumed all
	waiting  bool // in app.ready
	dirty    bool // in app.dirty
	queued   bool // in Gate.work
	waitFrom int64

	peerInode uint64 // of the instance's end; 0: not known yet

	handing bool // it is to become direct: what its app sends is not read
	tries   int  // how often that was not possible yet

	names []engine.ConnID // in checkpoints that were taken when it was direct

	alias     engine.ConnID // names c in checkpoints that have its open transaction; 0: none has
	sent      int           // bytes of the open transaction that the instance was given
	heardAt   uint64        // what app.forwards was when bytes last came back
	heardTime int64         // when that was; 0: never
	partBy    int64         // when to close it, if it is parting

	kept    []byte // the request since the last boundary, if it may have to be delivered again
	over    bool   // it was too long to keep
	retries int
}

// peer is the inode of the instance's end of c, 0 while the service has not accepted the connection.
func (g *Gate) peer(c *conn) uint64 {
	if c.peerInode == 0 && c.s.fd >= 0 {
		if ino, err := g.diag.peerInode(c.s.fd); err == nil {
			c.peerInode = ino
		}
	}
	return c.peerInode
}

// newConn makes a connection of a's whose end fd is; it is not watched yet.
func (g *Gate) newConn(a *app, id engine.ConnID, endpoint, fd int) *conn {
	ep := g.eps[endpoint]
	c := &conn{id: id, app: a, pos: len(a.conns), endpoint: endpoint, handing: g.mayHandOver(a, ep)}
	c.a = end{fd: fd, unix: ep.network == "unix", readable: true}
	c.s.fd = -1
	c.up.careful = true
	a.conns = append(a.conns, c)
	a.counters.conns.Add(1)
	g.nconns++
	return c
}

// admitConn takes a freshly accepted connection of a over.
func (g *Gate) admitConn(a *app, id engine.ConnID, endpoint, fd int) {
	c := g.newConn(a, id, endpoint, fd)
	if err := g.watchEnd(c, &c.a); err != nil {
		g.logApp(a).WithError(err).Error("cannot watch a connection")
		g.reset(c)
		return
	}
	switch a.phase {
	case phaseEmpty:
		g.load(a)
	case phaseReady:
		g.dial(c)
	case phaseDown:
		g.refuse(c)
	case phaseBusy: // dialled when the instance is let go on; a new one is dialled for every connection anyway
		a.undialed = append(a.undialed, c)
	}
}

// dial connects c to the app's instance.
func (g *Gate) dial(c *conn) {
	a := c.app
	fd, err := a.inst.Dial(c.endpoint)
	switch {
	case errors.Is(err, unix.EAGAIN):
		a.undialed = append(a.undialed, c)
		g.clock.set(&a.alarms, alarmDial, g.now()+1_000_000)
		g.rouse(a)
		return
	case errors.Is(err, engine.ErrGone):
		return // the pidfd is about to tell; the replacement is dialled
	case err != nil:
		g.logApp(a).WithError(err).Error("cannot connect to the instance")
		g.refuse(c)
		return
	}
	c.fresh = true
	a.fresh = append(a.fresh, c)
	g.attach(c, fd, 0)
	if !c.closed {
		g.redeliver(c)
	}
	if !c.closed {
		g.rouse(a)
		g.queue(c)
	}
}

// attach makes fd, which it takes over, the connection's end at the instance.
func (g *Gate) attach(c *conn, fd int, ino uint64) {
	c.s = end{fd: fd, unix: isUnix(fd), readable: true}
	c.peerInode, c.lost = ino, false
	closeAll(c.down.stash.fds)
	c.down = flow{buf: c.down.buf, off: c.down.off, fds: c.down.fds, careful: true}
	c.up.shut = false
	// Only converse waits on it; everything else asks for MSG_DONTWAIT.
	tv := unix.Timeval{Usec: replyWaitUs}
	err := errors.Join(unix.SetNonblock(fd, false), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err == nil {
		err = g.watchEnd(c, &c.s)
	}
	if err != nil {
		g.logApp(c.app).WithError(err).Error("cannot watch a connection to the instance")
		g.reset(c)
		return
	}
	if c.handing {
		g.wantHandover(c)
	}
}

// dialWaiting dials what came while the instance was held, and tries again what its backlog had no room for.
func (g *Gate) dialWaiting(a *app) {
	again := a.undialed
	a.undialed = nil
	for _, c := range again {
		if !c.closed && c.s.fd < 0 && !c.parting {
			g.dial(c)
		}
	}
}

func (g *Gate) watchEnd(c *conn, e *end) error {
	kind := slotApp
	if e == &c.s {
		kind = slotService
	}
	slot, err := g.watch(e.fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLET, entry{kind: kind, conn: c})
	e.slot = slot
	return err
}

// wantOut has the loop told when e takes bytes again.
func (g *Gate) wantOut(e *end, want bool) {
	if e.wantOut == want {
		return
	}
	e.wantOut = want
	var more uint32
	if want {
		more = unix.EPOLLOUT
	}
	g.rewatch(e.fd, e.slot, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLET|more)
}

func (g *Gate) dropEnd(e *end) {
	if e.fd < 0 {
		return
	}
	g.unwatch(e.fd, e.slot)
	_ = unix.Close(e.fd)
	*e = end{fd: -1}
}

// reset ends c at once; bytes under way are lost to both sides, as when a direct connection breaks.
func (g *Gate) reset(c *conn) {
	if c.closed {
		return
	}
	if c.a.fd >= 0 && !c.a.unix {
		_ = unix.SetsockoptLinger(c.a.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	g.remove(c)
}

// remove closes both ends and forgets c.
func (g *Gate) remove(c *conn) {
	if c.closed {
		return
	}
	a := c.app
	c.closed = true
	g.settleConn(c)
	if c.a.fd >= 0 {
		a.counters.conns.Add(-1)
	}
	g.dropEnd(&c.a)
	g.dropEnd(&c.s)
	for _, f := range []*flow{&c.up, &c.down} {
		g.empty(f)
		closeAll(f.stash.fds)
	}
	last := len(a.conns) - 1
	a.conns[c.pos] = a.conns[last]
	a.conns[c.pos].pos = c.pos
	a.conns[last] = nil
	a.conns = a.conns[:last]
	g.nconns--
	g.lookIfOver(a)
}

// settleConn notes that nothing of c is under way any more.
func (g *Gate) settleConn(c *conn) {
	if !c.open {
		return
	}
	if c.long {
		c.app.long--
	} else {
		c.app.open--
	}
	c.open, c.long, c.alias = false, false, 0
}

// opened notes that the service owes c an answer.
func (c *conn) opened() {
	if !c.open {
		c.open = true
		c.app.open++
	}
	if !c.dirty {
		c.dirty = true
		c.app.dirty = append(c.app.dirty, c)
	}
}

// forwarded notes that n bytes of a request go to the instance.
func (c *conn) forwarded(n int) {
	if !c.open {
		c.sent = 0
	}
	c.sent += n
	c.app.forwards++
	c.alias, c.unsure = 0, false
	c.opened()
}

// keep remembers request bytes for a retry.
func (g *Gate) keep(c *conn, p []byte, rights bool) {
	if g.cfg.Service.OnCrash.Mode != spec.CrashRetry {
		return
	}
	if !c.open {
		c.kept, c.over = c.kept[:0], false
	}
	if c.over || rights || len(c.kept)+len(p) > maxKept {
		c.kept, c.over = nil, true
		return
	}
	c.kept = append(c.kept, p...)
}
