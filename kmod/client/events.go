package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// EventType says what has happened.
type EventType uint32

// The types, as in the header.
const (
	EventCrashed      EventType = 1 + iota // record ID died: TID, Signal, Code, Addr; Next is active now
	EventExited                            // the process has ended
	EventExec                              // it executes another program
	EventThreadNew                         // thread TID was created in record ID
	EventThreadExit                        // thread TID has ended in record ID
	EventLost                              // Code events were dropped
	EventDetached                          // by Detach
	EventBinderWanted                      // a transaction of key Addr, from thread TID, waits: for a route, or for record ID to run
	EventBinderDue                         // Code transactions of key Addr have gone to record ID
)

var eventNames = [...]string{
	EventCrashed: "crashed", EventExited: "exited", EventExec: "exec", EventThreadNew: "thread-new", EventThreadExit: "thread-exit",
	EventLost: "lost", EventDetached: "detached", EventBinderWanted: "binder-wanted", EventBinderDue: "binder-due",
}

func (t EventType) String() string {
	if int(t) < len(eventNames) && eventNames[t] != "" {
		return eventNames[t]
	}
	return fmt.Sprintf("event %d", uint32(t))
}

// Event is something that has happened to the process.
type Event struct {
	Type     EventType
	ID, Next uint32 // records, or uapi.None
	TID      int
	Signal   unix.Signal // 0: exit_group
	Code     int         // si_code or exit code; a number of transactions
	Addr     uint64      // of the fault; a Binder key
	At       time.Duration
}

const eventSize = int(unsafe.Sizeof(uapi.Event{}))

// Events waits for events and returns those that there are. It is for one goroutine. io.EOF: the session is over and
// everything has been read. os.ErrClosed: Close was called.
func (s *Session) Events() ([]Event, error) {
	var raw [64]uapi.Event
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&raw)), len(raw)*eventSize)
	n, err := s.events.Read(buf)
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("corsa.ko: read events: %w", err)
	}
	if n%eventSize != 0 {
		return nil, fmt.Errorf("corsa.ko: read events: %d bytes are no whole events: %w", n, ErrVersion)
	}
	out := make([]Event, n/eventSize)
	for i := range out {
		e := &raw[i]
		out[i] = Event{
			Type: EventType(e.Type), ID: e.ID, Next: e.Next, TID: int(e.TID), Signal: unix.Signal(e.Signo), Code: int(e.Code),
			Addr: e.Addr, At: time.Duration(e.NS),
		}
	}
	return out, nil
}
