package binder

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// thread is what this package keeps of an operating system thread in the driver: commands that it has not consumed and the
// transactions that are under way on the thread.
type thread struct {
	conn *Conn
	tid  int
	io   writeRead
	out  []byte // commands for the driver
	in   []byte // room for what it returns

	serving  int      // incoming transactions that the thread is in
	replying int      // replies of which the driver has not told what became of them
	frames   []*frame // one for each level of serving, to be used again
	unsent   []*frame // with replies to which out may refer
	looper   bool
	broken   bool // a nested call was given up: the driver's idea of the thread's calls differs from ours
}

// threads finds the threads that are serving: a call that a handler makes has to go on in its thread's record.
type threads struct {
	mu      sync.RWMutex
	serving map[int]*thread
	spare   sync.Pool
}

const readBuffer = 512 // some commands and one transaction; the driver returns no two at once

func (s *threads) find(tid int) *thread {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.serving[tid]
}

func (s *threads) add(t *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving == nil {
		s.serving = map[int]*thread{}
	}
	s.serving[t.tid] = t
}

func (s *threads) remove(t *thread) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.serving, t.tid)
}

// getThread returns an unused record for a thread that is not serving.
func (c *Conn) getThread(tid int) *thread {
	t, ok := c.threads.spare.Get().(*thread)
	if !ok {
		t = &thread{conn: c, in: make([]byte, readBuffer), out: make([]byte, 0, 256)}
	}
	t.tid = tid
	return t
}

func (c *Conn) putThread(t *thread) {
	t.out, t.replying, t.broken = t.out[:0], 0, false
	t.forget()
	c.threads.spare.Put(t)
}

// exchange gives the driver the commands in out and, if read, waits for what it has to say. It returns early, with nothing,
// when the Conn is woken, or by a signal. What the driver has consumed is not given to it again.
func (t *thread) exchange(read bool) ([]byte, error) {
	for {
		t.io = writeRead{}
		if t.io.writeSize = uint64(len(t.out)); len(t.out) > 0 {
			t.io.writeBuffer = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(t.out))))
		}
		if read {
			t.io.readSize = uint64(len(t.in))
			t.io.readBuffer = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(t.in))))
		}
		err := ioctl(t.conn.fd, ioctlWriteRead, unsafe.Pointer(&t.io))
		if t.io.writeConsumed > uint64(len(t.out)) || t.io.readConsumed > uint64(len(t.in)) {
			return nil, fmt.Errorf("%w: binder driver consumed %d of %d bytes and returned %d", ErrMalformed,
				t.io.writeConsumed, len(t.out), t.io.readConsumed)
		}
		if t.out = t.out[:copy(t.out, t.out[t.io.writeConsumed:])]; len(t.out) == 0 {
			t.forget()
		}
		if t.io.readConsumed > 0 || err == nil {
			return t.in[:t.io.readConsumed], nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("binder device %s: %w", t.conn.path, err)
		}
		// At the end of a call that a signal has broken off the driver forgets that the thread was woken: the caller looks why.
		if read {
			return t.in[:0], nil
		}
	}
}

// forget lets go of the replies that the driver has read.
func (t *thread) forget() {
	for i, f := range t.unsent {
		t.unsent[i] = nil
		f.tx.finish()
	}
	t.unsent = t.unsent[:0]
}

// flush gives the driver what is in out without waiting for anything.
func (t *thread) flush() error {
	for len(t.out) > 0 {
		before := len(t.out)
		if _, err := t.exchange(false); err != nil {
			return err
		}
		if len(t.out) < before {
			continue
		}
		// The driver takes nothing before it is rid of an error that it has for us.
		stream, err := t.exchange(true)
		if err == nil {
			err = t.handle(stream, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send gives the driver commands that belong to no thread.
func (c *Conn) send(commands []byte) error {
	t := c.getThread(0)
	defer c.putThread(t)
	t.out = append(t.out, commands...)
	for len(t.out) > 0 {
		before := len(t.out)
		if _, err := t.exchange(false); err != nil {
			return err
		}
		if len(t.out) == before {
			return fmt.Errorf("binder device %s takes no commands", c.path)
		}
	}
	return nil
}

// exit makes the driver forget the calling thread: whatever it was waiting for is dropped.
func (t *thread) exit() {
	var unused int32
	_ = ioctl(t.conn.fd, ioctlThreadExit, unsafe.Pointer(&unused)) // fails only if the driver does not know the thread
}

// outgoing is a call that a thread waits for.
type outgoing struct {
	reply     *Reply // nil: oneway
	sent      bool   // the driver has taken it
	done      bool
	err       error
	doubtful  error        // an error that may as well be about a nested reply
	cancelled *atomic.Bool // may be nil
}

func (o *outgoing) finish(err error) { o.done, o.err = true, err }

// handle carries out what the driver has returned. Errors are those of the driver, not of peers.
func (t *thread) handle(stream []byte, call *outgoing) error {
	for len(stream) > 0 {
		cmd, payload, rest, err := next(stream)
		if err != nil {
			return err
		}
		stream = rest
		switch cmd {
		case brComplete, brSpamSuspect, brPendingFrozen:
			t.completed(call)
		case brReply:
			err = t.replied(payload, call)
		case brDeadReply:
			t.failed(call, ErrDead)
		case brFailedReply:
			t.failed(call, ErrFailed)
		case brFrozenReply:
			t.failed(call, ErrFrozen)
		case brTransaction, brTransactionSecCtx:
			if call != nil && call.doubtful != nil {
				// Our caller's caller goes on, so that the error cannot have been about the call.
				t.replying, call.doubtful = t.replying-1, nil
			}
			stream = slices.Clone(stream) // in is used again while the handler runs; there is hardly anything left
			t.serve(payload)
		case brIncRefs, brAcquire, brRelease, brDecRefs:
			t.count(cmd, order.Uint64(payload), order.Uint64(payload[8:]))
		case brSpawnLooper:
			t.conn.startLooper(bcRegisterLooper)
		case brDeadBinder:
			t.died(order.Uint64(payload))
		case brError:
			err = fmt.Errorf("binder device %s: %w", t.conn.path, unix.Errno(-int32(order.Uint32(payload))))
		case brNoop, brOK, brFinished, brClearDeathDone:
		default: // what this package does not know, it has not asked for; the number has told the size
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// completed notes that the driver has taken the oldest transaction or reply of this thread that it had not taken yet.
func (t *thread) completed(call *outgoing) {
	if t.replying > 0 {
		t.replying--
		if call != nil && call.doubtful != nil {
			call.finish(call.doubtful)
		}
		return
	}
	if call == nil {
		return
	}
	call.sent = true
	if call.reply == nil {
		call.finish(nil)
	}
}

// failed notes that a transaction or a reply of this thread came to nothing. Nobody can do anything about a reply: its
// caller is gone. If both are under way, what comes next tells which of them it was.
func (t *thread) failed(call *outgoing, err error) {
	switch {
	case call == nil || t.replying > 0 && !call.sent:
		t.replying = max(t.replying-1, 0)
	case t.replying == 0:
		call.finish(err)
	case call.doubtful == nil:
		call.doubtful = err
	default:
		t.replying--
		call.finish(err)
	}
}

func (t *thread) replied(payload []byte, call *outgoing) error {
	d := decodeTransaction(payload)
	if call == nil || call.reply == nil || call.done {
		t.out = appendPointer(t.out, bcFreeBuffer, d.buffer)
		return fmt.Errorf("%w: reply without a call", ErrMalformed)
	}
	if call.doubtful != nil {
		t.replying, call.doubtful = t.replying-1, nil
	}
	call.finish(t.conn.receive(&d, call.reply))
	return nil
}
