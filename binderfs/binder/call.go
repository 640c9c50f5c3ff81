package binder

import (
	"context"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reply is the answer to a transaction. The zero value is ready for use. A Reply that holds an answer has to be released, or
// used for the next Transact, which saves a system call. It must not be copied or used by two goroutines at once.
type Reply struct {
	Reader
	conn   *Conn
	buffer uint64 // the driver's; 0: none
}

// Release gives the driver the memory of the answer back and closes the file descriptors in it that were not read. The
// Reply may be used again.
func (r *Reply) Release() {
	c := r.conn
	if r.buffer == 0 {
		return
	}
	r.drop()
	if err := c.enter(); err != nil {
		return // the driver has forgotten the buffer with the Conn
	}
	defer c.leave()
	var room [12]byte
	if t := c.threads.find(unix.Gettid()); t != nil {
		t.out = appendPointer(t.out, bcFreeBuffer, r.buffer)
	} else {
		c.note(c.send(appendPointer(room[:0], bcFreeBuffer, r.buffer)))
	}
	r.buffer = 0
}

// drop ends the use of the buffer, which remains to be freed.
func (r *Reply) drop() {
	r.closeUntaken()
	r.reset(nil, 0, nil, nil)
	r.conn.mapping.drop()
}

// receive takes over the buffer of an answer. A status instead of a parcel is the error.
func (c *Conn) receive(d *transactionData, r *Reply) error {
	c.mapping.hold()
	r.conn, r.buffer = c, d.buffer
	data, err := c.mapping.slice(d.buffer, d.dataSize)
	offsets, offsetsErr := c.mapping.slice(d.offsets, d.offsetsSize)
	if err == nil {
		err = offsetsErr
	}
	r.reset(c, c.protocol, data, offsets)
	if err != nil || d.flags&flagStatus == 0 {
		return err
	}
	status := Status(r.Int32())
	if err := r.Err(); err != nil {
		return err
	}
	if status != 0 {
		return status
	}
	return nil
}

// Transact sends a request and waits for the reply. The error is a *CallError if there is none, or a Status if the answer is
// a status; reply holds nothing then. When ctx ends, the call is given up: the object may have done or may yet do what it
// was asked for. A call that a handler makes cannot be given up while it waits; only a ctx that has ended before is heeded.
func (r *Ref) Transact(ctx context.Context, code uint32, request *Parcel, reply *Reply) error {
	return r.call(ctx, code, request, reply)
}

// Send sends a request that has no reply: a oneway transaction. It returns when the driver has queued it. The requests of
// one thread to one object arrive in their order; the object handles one after the other.
func (r *Ref) Send(ctx context.Context, code uint32, request *Parcel) error {
	return r.call(ctx, code, request, nil)
}

// Ping asks the object's process whether it is there.
func (r *Ref) Ping(ctx context.Context) error {
	var empty Parcel
	var reply Reply
	defer reply.Release()
	return r.Transact(ctx, CodePing, &empty, &reply)
}

// Interface asks the object for the name of its interface.
func (r *Ref) Interface(ctx context.Context) (string, error) {
	var empty Parcel
	var reply Reply
	defer reply.Release()
	if err := r.Transact(ctx, CodeInterface, &empty, &reply); err != nil {
		return "", err
	}
	name := reply.String16()
	return name, reply.Err()
}

func (r *Ref) call(ctx context.Context, code uint32, request *Parcel, reply *Reply) error {
	c := r.conn
	if err := ctx.Err(); err != nil {
		return &CallError{Handle: r.handle, Code: code, Err: err}
	}
	if err := c.enter(); err != nil {
		return &CallError{Handle: r.handle, Code: code, Err: err}
	}
	defer c.leave()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	t := c.threads.find(tid)
	if t == nil {
		t = c.getThread(tid)
		defer c.putThread(t)
	}

	call := outgoing{reply: reply}
	if ctx.Done() != nil && t.serving == 0 {
		call.cancelled = new(atomic.Bool)
		defer c.wakeAfter(ctx, call.cancelled)()
	}
	d := transactionData{target: uint64(r.handle), code: code}
	if reply == nil {
		d.flags = flagOneWay
	} else {
		d.flags = flagAcceptFDs
		switch {
		case reply.buffer == 0:
		case reply.conn != c:
			reply.Release()
		default:
			reply.drop()
			t.out = appendPointer(t.out, bcFreeBuffer, reply.buffer)
			reply.buffer = 0
		}
	}
	t.out = request.command(t.out, bcTransaction, bcTransactionSG, &d)
	c.traceCall(tid, r.handle, &d, request)
	err := t.wait(ctx, &call)
	runtime.KeepAlive(request)
	return c.conclude(t, r.handle, code, &call, err)
}

// wakeAfter wakes the Conn when ctx ends, and returns what to call when that does not matter any more.
func (c *Conn) wakeAfter(ctx context.Context, cancelled *atomic.Bool) func() {
	stop := context.AfterFunc(ctx, func() {
		cancelled.Store(true)
		if c.enter() == nil {
			c.note(c.wake())
			c.leave()
		}
	})
	return func() { stop() }
}

// wait returns when the call is done, or can never be.
func (t *thread) wait(ctx context.Context, call *outgoing) error {
	for !call.done {
		stream, err := t.exchange(true)
		if err == nil {
			err = t.handle(stream, call)
		}
		if err == nil && !call.done {
			switch {
			case t.conn.closing.Load():
				err = ErrClosed
			case call.cancelled != nil && call.cancelled.Load():
				err = ctx.Err()
			}
			if err != nil {
				t.conn.note(t.flush()) // what the driver waits for from this thread, besides the call
			}
		}
		if err != nil {
			t.out = t.out[:0]
			t.giveUp()
			return err
		}
	}
	if t.serving > 0 {
		return nil // goes to the driver with the handler's next call or reply
	}
	return t.flush()
}

// giveUp has the driver drop the call that the thread waits for.
func (t *thread) giveUp() {
	if t.serving > 0 {
		t.broken = true // dropping the call would drop the caller's as well: only for a Conn that is of no use any more
		return
	}
	t.exit()
	if t.looper {
		t.out = order.AppendUint32(t.out, uint32(bcEnterLooper))
	}
}

// conclude makes the error of a call, on the thread that has made it.
func (c *Conn) conclude(t *thread, handle, code uint32, call *outgoing, err error) error {
	if err == nil {
		err = call.err
	}
	if call.reply != nil && call.reply.buffer != 0 {
		c.traceReply(t.tid, handle, code, call.reply, err)
		if err != nil {
			call.reply.Release()
		}
		return err
	}
	if err == nil {
		return nil
	}
	e := &CallError{Handle: handle, Code: code, Err: err}
	if call.err != nil {
		e.Errno = c.extendedError()
	}
	c.traceFailure(t.tid, handle, code, e)
	return e
}

// extendedError asks why the last transaction of the calling thread has failed. 0: the kernel does not know or not tell.
func (c *Conn) extendedError() unix.Errno {
	var e extendedError
	if ioctl(c.fd, ioctlExtendedError, unsafe.Pointer(&e)) != nil || e.param >= 0 {
		return 0
	}
	return unix.Errno(-e.param)
}
