package binder

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Handler carries out the transactions of an Object. Several may arrive at once, each on its own thread; oneway ones to the
// same Object arrive one after the other. A Handler that waits keeps one of the Conn's threads from others.
type Handler interface {
	// Transact reads tx.Data and writes the reply. If it returns an error, the caller gets a Status instead of the reply:
	// the error itself if it is one, else one that fits. tx and reply are valid until it returns.
	Transact(tx *Transaction, reply *Parcel) error
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(tx *Transaction, reply *Parcel) error

// Transact calls f.
func (f HandlerFunc) Transact(tx *Transaction, reply *Parcel) error { return f(tx, reply) }

// Transaction is a request from another process.
type Transaction struct {
	Object *Object // that is asked
	Code   uint32
	OneWay bool // nobody waits for a reply
	// SenderPID is the caller's process in the pid namespace of the receiver; 0 for oneway transactions and for callers that
	// the namespace does not show. SenderUID is its effective user in the receiver's user namespace. Both come from the kernel.
	SenderPID int
	SenderUID int
	Data      Reader
	// Within is the transaction in whose handler the thread waits for an answer: this one is called for it, be it by the
	// process that has been asked or by another that it has asked. nil: none.
	Within *Transaction
	// Note is for the handler, who finds there what it has left in Within.
	Note any

	after []func()
}

// AfterReply has f called when the driver has read the reply. It is there to release references that the reply passes on.
// For a oneway transaction it is called when the handler has returned.
func (tx *Transaction) AfterReply(f func()) { tx.after = append(tx.after, f) }

// finish calls what the handler has left for the time when the reply is sent.
func (tx *Transaction) finish() {
	for _, f := range tx.after {
		f()
	}
	clear(tx.after)
	tx.after = tx.after[:0]
}

type frame struct {
	tx    Transaction
	reply Parcel
}

// push returns the frame of the transaction that begins.
func (t *thread) push() *frame {
	if t.serving == 0 && !t.looper {
		t.conn.threads.add(t) // a caller that serves while it waits
	}
	if t.serving == len(t.frames) {
		t.frames = append(t.frames, &frame{})
	}
	f := t.frames[t.serving]
	if slices.Contains(t.unsent, f) {
		f = &frame{} // the driver has yet to read the last one
		t.frames[t.serving] = f
	}
	f.tx.Within, f.tx.Note = nil, nil
	if t.serving > 0 {
		f.tx.Within = &t.frames[t.serving-1].tx
	}
	t.serving++
	return f
}

// serve carries out one transaction and appends the reply to out. The driver reads it with the thread's next exchange.
func (t *thread) serve(payload []byte) {
	c := t.conn
	d := decodeTransaction(payload)
	f := t.push()
	tx, reply := &f.tx, &f.reply
	tx.Code, tx.OneWay, tx.SenderPID, tx.SenderUID = d.code, d.flags&flagOneWay != 0, int(d.pid), int(d.euid)
	reply.protocol = c.protocol
	reply.Reset()

	data, err := c.mapping.slice(d.buffer, d.dataSize)
	offsets, offsetsErr := c.mapping.slice(d.offsets, d.offsetsSize)
	if err == nil {
		err = offsetsErr
	}
	tx.Data.reset(c, c.protocol, data, offsets)
	tx.Object = c.object(d.target)
	if err == nil {
		c.traceRequest(t.tid, tx)
		err = tx.dispatch(reply)
	}
	tx.Data.closeUntaken()
	tx.Data.reset(nil, 0, nil, nil)
	t.out = appendPointer(t.out, bcFreeBuffer, d.buffer)
	if tx.OneWay || t.broken {
		tx.finish()
	} else {
		t.reply(f, err)
	}
	t.pop()
}

func (t *thread) reply(f *frame, err error) {
	reply := &f.reply
	d := transactionData{flags: flagAcceptFDs}
	if err != nil {
		reply.Reset()
		reply.WriteInt32(int32(statusOf(err)))
		d.flags |= flagStatus
	}
	t.out = reply.command(t.out, bcReply, bcReplySG, &d)
	t.unsent = append(t.unsent, f)
	t.replying++
	t.conn.traceAnswer(t.tid, &f.tx, reply, err)
}

func (t *thread) pop() {
	t.serving--
	if t.serving == 0 && !t.looper {
		t.conn.threads.remove(t)
	}
}

// dispatch answers what every object answers and leaves the rest to the handler.
func (tx *Transaction) dispatch(reply *Parcel) error {
	o := tx.Object
	switch {
	case o == nil:
		return StatusDeadObject
	case o.raw:
		return o.handler.Transact(tx, reply)
	case tx.Code == CodePing:
		return nil
	case tx.Code == CodeInterface:
		reply.WriteString16(o.descriptor)
		return nil
	case tx.Code == CodeSysProps:
		return nil
	}
	return o.handler.Transact(tx, reply)
}

// startLooper starts a thread that waits for transactions.
func (c *Conn) startLooper(enter command) {
	if c.closing.Load() {
		return
	}
	c.looping.Add(1)
	go func() {
		defer c.looping.Done()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		t := c.getThread(unix.Gettid())
		defer c.putThread(t)
		t.loop(enter)
	}()
}

// loop receives transactions until the Conn is closed or the device fails.
func (t *thread) loop(enter command) {
	c := t.conn
	t.looper = true
	c.threads.add(t)
	t.out = order.AppendUint32(t.out, uint32(enter))
	var err error
	for err == nil && !c.closing.Load() {
		var stream []byte
		if stream, err = t.exchange(true); err == nil {
			err = t.handle(stream, nil)
		}
	}
	c.note(err)
	t.out = order.AppendUint32(t.out, uint32(bcExitLooper))
	c.note(t.flush())
	t.exit()
	c.threads.remove(t)
	t.looper = false
}
