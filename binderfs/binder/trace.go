package binder

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// EventKind says which end of a transaction an Event is about.
type EventKind string

// The kinds of events.
const (
	EventCall    EventKind = "call"    // this process sends a request
	EventReply   EventKind = "reply"   // it gets the reply, or Err is the status that came instead
	EventFailure EventKind = "failure" // there is no reply: Err says why
	EventRequest EventKind = "request" // another process's request has arrived
	EventAnswer  EventKind = "answer"  // it has been handled; Err is why the caller gets a status
)

// Event is one step of a transaction, for people who want to see what is going on.
type Event struct {
	Time      time.Time
	Kind      EventKind
	Thread    int    // that has it
	Handle    uint32 // of the object that is called, for calls, replies and failures
	Object    string // its interface, for requests and answers
	SenderPID int    // for requests and answers
	SenderUID int
	Code      uint32
	OneWay    bool
	Protocol  Protocol
	Data      []byte // the parcel; valid until Trace returns
	Offsets   []uint64
	Err       error
}

// Interface returns the name in the interface token with which a request begins, "" if there is none.
func (e *Event) Interface() string {
	if e.Kind != EventCall && e.Kind != EventRequest || e.Code > LastCall {
		return ""
	}
	r := NewReader(e.Protocol, e.Data, nil)
	if name := r.InterfaceToken(); r.Err() == nil {
		return name
	}
	return ""
}

// String returns one line: time, thread, who calls whom, what, how much, the objects that go along.
func (e *Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d ", e.Time.Format("15:04:05.000000"), e.Thread)
	switch e.Kind {
	case EventCall:
		fmt.Fprintf(&b, "-> handle %d", e.Handle)
	case EventReply:
		fmt.Fprintf(&b, "<- handle %d", e.Handle)
	case EventFailure:
		fmt.Fprintf(&b, "!! handle %d", e.Handle)
	case EventRequest:
		fmt.Fprintf(&b, "<- pid %d uid %d", e.SenderPID, e.SenderUID)
	case EventAnswer:
		fmt.Fprintf(&b, "-> pid %d uid %d", e.SenderPID, e.SenderUID)
	}
	fmt.Fprintf(&b, " %s %s", e.Kind, codeName(e.Code))
	if e.OneWay {
		b.WriteString(" oneway")
	}
	if name := e.Interface(); name != "" {
		fmt.Fprintf(&b, " %s", name)
	} else if e.Object != "" {
		fmt.Fprintf(&b, " of %s", e.Object)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
		return b.String()
	}
	fmt.Fprintf(&b, " %d bytes", len(e.Data))
	for i, o := range objects(e.Data, e.Offsets) {
		if i == 0 {
			b.WriteString(":")
		}
		b.WriteString(" " + o)
	}
	return b.String()
}

// objects describes the objects of a parcel.
func objects(data []byte, offsets []uint64) []string {
	r := NewReader(0, data, offsets)
	list := make([]string, 0, len(offsets))
	for i := range offsets {
		b, t := r.object(i)
		switch {
		case b == nil:
			list = append(list, "?")
		case t == typeBinder, t == typeWeakBinder:
			list = append(list, fmt.Sprintf("object %d", order.Uint64(b[8:])))
		case t == typeHandle, t == typeWeakHandle:
			list = append(list, fmt.Sprintf("handle %d", order.Uint32(b[8:])))
		case t == typeFD:
			list = append(list, fmt.Sprintf("fd %d", order.Uint32(b[8:])))
		case t == typeFDArray:
			list = append(list, fmt.Sprintf("%d fds", order.Uint64(b[8:])))
		case t == typeBuffer:
			list = append(list, fmt.Sprintf("buffer of %d", order.Uint64(b[16:])))
		}
	}
	return list
}

// Printer returns a function for Options.Trace that prints each event as a line, and with dump the parcel's bytes below it.
func Printer(w io.Writer, dump bool) func(*Event) {
	var mu sync.Mutex
	return func(e *Event) {
		text := e.String() + "\n"
		if dump && e.Err == nil {
			text += hexDump(e.Data)
		}
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.WriteString(w, text) // a trace that cannot be written must not stop the traffic
	}
}

// hexDump writes the parcel as rows of four 32-bit words, and beside them the UTF-16 text that they would be.
func hexDump(data []byte) string {
	var b strings.Builder
	for at := 0; at < len(data); at += 16 {
		fmt.Fprintf(&b, "    %04x ", at)
		row := data[at:min(at+16, len(data))]
		for i := 0; i < 16; i += 4 {
			if i+4 <= len(row) {
				fmt.Fprintf(&b, " %08x", order.Uint32(row[i:]))
			} else {
				b.WriteString("         ")
			}
		}
		b.WriteString("  ")
		for i := 0; i+2 <= len(row); i += 2 {
			if u := order.Uint16(row[i:]); u >= ' ' && u < 0x7f {
				b.WriteByte(byte(u))
			} else {
				b.WriteByte('.')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (c *Conn) emit(e Event) {
	e.Time, e.Protocol = time.Now(), c.protocol
	c.trace(&e)
}

func (c *Conn) traceCall(tid int, handle uint32, d *transactionData, p *Parcel) {
	if c.trace != nil {
		c.emit(Event{
			Kind: EventCall, Thread: tid, Handle: handle, Code: d.code, OneWay: d.flags&flagOneWay != 0, Data: p.data, Offsets: p.offsets,
		})
	}
}

func (c *Conn) traceReply(tid int, handle, code uint32, r *Reply, err error) {
	if c.trace != nil {
		c.emit(Event{Kind: EventReply, Thread: tid, Handle: handle, Code: code, Data: r.data, Offsets: r.offsetList(), Err: err})
	}
}

func (c *Conn) traceFailure(tid int, handle, code uint32, err error) {
	if c.trace != nil {
		c.emit(Event{Kind: EventFailure, Thread: tid, Handle: handle, Code: code, Err: err})
	}
}

func (c *Conn) traceRequest(tid int, tx *Transaction) {
	if c.trace != nil {
		c.emit(tx.event(EventRequest, tid, tx.Data.data, tx.Data.offsetList(), nil))
	}
}

func (c *Conn) traceAnswer(tid int, tx *Transaction, p *Parcel, err error) {
	if c.trace != nil {
		c.emit(tx.event(EventAnswer, tid, p.data, p.offsets, err))
	}
}

func (tx *Transaction) event(kind EventKind, tid int, data []byte, offsets []uint64, err error) Event {
	e := Event{
		Kind: kind, Thread: tid, SenderPID: tx.SenderPID, SenderUID: tx.SenderUID, Code: tx.Code, OneWay: tx.OneWay,
		Data: data, Offsets: offsets, Err: err,
	}
	if tx.Object != nil {
		e.Object = tx.Object.descriptor
	}
	return e
}

func (r *Reader) offsetList() []uint64 {
	list := make([]uint64, len(r.offsets)/8)
	for i := range list {
		list[i] = order.Uint64(r.offsets[8*i:])
	}
	return list
}
