package service

import (
	"sync"
	"time"

	"corsa.dev/corsa/runtime/instance"
)

// The kinds of Event.
const (
	EventReady       = "ready"       // the monitor serves; Detail says whether it took over
	EventInstance    = "instance"    // an app got its instance
	EventCheckpoint  = "checkpoint"  // a checkpoint was taken
	EventRestore     = "restore"     // an app was restored by hand
	EventDiscard     = "discard"     // a checkpoint was discarded for lack of budget
	EventCrash       = "crash"       // an instance died; Detail says of what
	EventReplaced    = "replaced"    // an app goes on with a new instance after a crash
	EventQuarantined = "quarantined" // a crash loop: the app is not served any more
	EventStopped     = "stopped"     // the same by policy on-crash=stop
	EventEvicted     = "evicted"     // an idle app's instance was ended to make room; Checkpoint has its state
	EventLeft        = "left"        // an app that was a connection or a process has ended, and its instance with it
	EventLost        = "lost"        // an instance or checkpoint was found dead by a new monitor
	EventStop        = "stop"        // the service is being ended
)

// Event is something that happened to the service. Number counts up from 1 in one monitor's life.
type Event struct {
	Number     uint64       `json:"number"`
	Time       time.Time    `json:"time"`
	Type       string       `json:"type"`
	App        instance.App `json:"app,omitempty"`
	Checkpoint string       `json:"checkpoint,omitempty"`
	Detail     string       `json:"detail,omitempty"`
}

const (
	eventsKept   = 1024 // for those who ask later
	eventsQueued = 256  // for a subscriber that does not keep up, before it is cut off
)

// bus keeps the newest events and hands new ones to subscribers. It never waits for one.
type bus struct {
	mu     sync.Mutex
	last   uint64
	recent []Event
	subs   map[chan Event]struct{}
	closed bool
}

func newBus() *bus { return &bus{subs: map[chan Event]struct{}{}} }

func (b *bus) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.last++
	e.Number = b.last
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(b.recent) == eventsKept {
		b.recent = append(b.recent[:0], b.recent[1:]...)
	}
	b.recent = append(b.recent, e)
	for ch := range b.subs {
		select {
		case ch <- e:
		default: // it sees that its channel is closed and can ask again with the last number it got
			delete(b.subs, ch)
			close(ch)
		}
	}
}

// subscribe returns the kept events with a number above since, and a channel of those to come. The channel is
// closed when the bus is, or when its reader does not keep up.
func (b *bus) subscribe(since uint64) ([]Event, chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []Event
	for _, e := range b.recent {
		if e.Number > since {
			past = append(past, e)
		}
	}
	ch := make(chan Event, eventsQueued)
	if b.closed {
		close(ch)
	} else {
		b.subs[ch] = struct{}{}
	}
	return past, ch
}

func (b *bus) unsubscribe(ch chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.subs {
		delete(b.subs, ch)
		close(ch)
	}
}
