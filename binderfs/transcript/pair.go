package transcript

import "time"

// State says how a transaction has ended.
type State string

// The states.
const (
	Answered State = "answered"
	Taken    State = "taken"  // oneway: a thread of the receiver has got it
	Failed   State = "failed" // it was not delivered, or its receiver has ended or crashed before the reply
)

// Transaction is one that has ended. Times are from the kernel's monotonic clock.
type Transaction struct {
	At       time.Duration `json:"at"`       // since boot, when it was sent; nanoseconds, as all times here
	Comm     string        `json:"comm"`     // name of the sender's thread
	TID      int           `json:"tid"`      // of the sender, in the initial pid namespace
	UID      int           `json:"uid"`      // effective, of the sender; -1: it has ended before it could be asked
	Outgoing bool          `json:"outgoing"` // sent by the process itself
	Node     int           `json:"node"`     // the driver's number of the object
	Code     uint32        `json:"code"`
	OneWay   bool          `json:"oneway"`
	Size     int64         `json:"size"` // bytes of the request
	// Waited is until a thread of the receiver took it: at a gate, and in the receiver's queue.
	Waited time.Duration `json:"waited"`
	// Took is from then until the reply; 0 for one without.
	Took  time.Duration `json:"took"`
	Reply int64         `json:"reply"` // bytes of the reply
	State State         `json:"state"`
}

// The flag of oneway transactions in the driver's events.
const oneWay = 1

// mostOpen bounds what is remembered of transactions whose end is not seen.
const mostOpen = 8192

// open is a transaction that has not ended.
type open struct {
	Transaction
	id    int64
	taken time.Duration
	reply bool
	of    *open // a reply's request
}

// pairer makes transactions out of events.
type pairer struct {
	pid    int
	uid    func(tid int) int
	own    func(tid int) bool // is it a thread of pid?
	emit   func(*Transaction)
	open   map[int64]*open
	stacks map[int][]*open // what each thread is handling
}

func newPairer(pid int, uid func(int) int, own func(int) bool, emit func(*Transaction)) *pairer {
	return &pairer{pid: pid, uid: uid, own: own, emit: emit, open: map[int64]*open{}, stacks: map[int][]*open{}}
}

func (p *pairer) add(e *event) {
	id := e.number("transaction")
	switch e.name {
	case "binder_transaction":
		p.begin(id, e)
	case "binder_transaction_alloc_buf":
		p.size(p.open[id], e.number("data_size"))
	case "binder_transaction_received":
		p.received(id, e)
	case "binder_transaction_failed_buffer_release", "binder_txn_latency_free":
		if t := p.open[id]; t != nil {
			p.end(id, t, Failed)
		}
	}
}

func (p *pairer) begin(id int64, e *event) {
	if e.number("reply") == 1 {
		p.answer(id, e)
		return
	}
	to, outgoing := int(e.number("dest_proc")), p.own(e.tid)
	if to != p.pid && !outgoing {
		return
	}
	if len(p.open) >= mostOpen {
		clear(p.open)
		clear(p.stacks)
	}
	p.open[id] = &open{id: id, Transaction: Transaction{
		At: e.at, Comm: e.comm, TID: e.tid, UID: p.uid(e.tid), Outgoing: outgoing && to != p.pid, Node: int(e.number("dest_node")),
		Code: uint32(e.number("code")), OneWay: e.number("flags")&oneWay != 0,
	}}
}

// size notes how large a request is. That of a reply belongs to its request, which has waited for it to be told.
func (p *pairer) size(t *open, bytes int64) {
	switch {
	case t == nil:
	case t.reply:
		t.of.Reply = bytes
		p.emit(&t.of.Transaction)
		t.of = nil
	default:
		t.Size = bytes
	}
}

func (p *pairer) received(id int64, e *event) {
	t := p.open[id]
	if t == nil {
		return
	}
	if t.reply {
		delete(p.open, id)
		return
	}
	t.taken = e.at
	t.Waited = e.at - t.At
	if t.OneWay {
		p.end(id, t, Taken)
		return
	}
	p.stacks[e.tid] = append(p.stacks[e.tid], t)
}

// answer finds the request that a thread replies to: the last one that it has taken.
func (p *pairer) answer(id int64, e *event) {
	stack := p.stacks[e.tid]
	if len(stack) == 0 {
		return
	}
	t := stack[len(stack)-1]
	p.pop(e.tid)
	t.Took, t.State = e.at-t.taken, Answered
	delete(p.open, t.id)
	p.open[id] = &open{id: id, reply: true, of: t}
}

func (p *pairer) pop(tid int) {
	stack := p.stacks[tid]
	if len(stack) == 1 {
		delete(p.stacks, tid)
		return
	}
	p.stacks[tid] = stack[:len(stack)-1]
}

// end reports a transaction that gets no reply.
func (p *pairer) end(id int64, t *open, s State) {
	delete(p.open, id)
	if t.reply {
		if t.of != nil { // it was too large, or its receiver has gone
			t = t.of
			t.State = Failed
			p.emit(&t.Transaction)
		}
		return
	}
	for tid, stack := range p.stacks {
		if len(stack) > 0 && stack[len(stack)-1] == t {
			p.pop(tid)
			break
		}
	}
	t.State = s
	p.emit(&t.Transaction)
}
