package enginetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"corsa.dev/corsa/runtime/engine"
)

// The helper is this test binary, started again to be an engine that is killed. Its order is in an environment
// variable, its journal is a pipe: one JSON entry per line, written before and after everything it does.
const (
	helperEnv = "CORSA_ENGINETEST_ORDER"
	journalFD = 3
)

// order tells a helper what to do.
type order struct {
	Program   string
	PID       int
	Listeners []engine.Address
	Dir       string
	Seed      uint64
	State     json.RawMessage `json:",omitempty"` // of an adopted service; nil: adopt it
	Book      book
}

// entry is one line of the journal.
type entry struct {
	Op     string          // see the op constants
	ID     int             `json:",omitempty"`
	PID    int             `json:",omitempty"`
	Sum    uint64          `json:",omitempty"`
	Handle json.RawMessage `json:",omitempty"`
}

const (
	opBegin    = "begin"    // the engine is about to be called for the first time
	opService  = "service"  // Handle is that of the adopted service
	opReady    = "ready"    // everything in the book has been found in order
	opInstance = "instance" // a new instance
	opImage    = "image"    // a new image
	opWill     = "will"     // instance ID is about to be told to change to Sum
	opSum      = "sum"      // instance ID holds Sum
	opEnding   = "ending"   // instance or image ID is about to be ended
	opEnded    = "ended"
)

// record is what is known about one instance or image.
type record struct {
	Image  bool
	PID    int
	Handle json.RawMessage
	Sums   []uint64 // one, or two if a change was under way
	Ending bool
}

// book is the state of a service as its journal tells it. Keys are given by the helper and never used again.
type book struct {
	Next    int
	Records map[int]*record
}

// apply reads a journal into the book; it returns the entry that adopted the service, if there is one. A last line
// that was cut off by the helper's death was never journaled.
func (b *book) apply(journal []byte) (service json.RawMessage, begun, ready bool, err error) {
	for {
		line, rest, whole := bytes.Cut(journal, []byte("\n"))
		if !whole {
			return service, begun, ready, nil
		}
		journal = rest
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, false, false, fmt.Errorf("journal %q: %w", line, err)
		}
		switch e.Op {
		case opBegin:
			begun = true
		case opReady:
			ready = true
		case opService:
			service = e.Handle
		case opInstance, opImage:
			b.Records[e.ID] = &record{Image: e.Op == opImage, PID: e.PID, Handle: e.Handle, Sums: []uint64{e.Sum}}
			b.Next = max(b.Next, e.ID+1)
		case opWill:
			b.Records[e.ID].Sums = append(b.Records[e.ID].Sums, e.Sum)
		case opSum:
			b.Records[e.ID].Sums = []uint64{e.Sum}
		case opEnding:
			b.Records[e.ID].Ending = true
		case opEnded:
			delete(b.Records, e.ID)
		default:
			return nil, false, false, fmt.Errorf("journal: unknown entry %q", line)
		}
	}
}

// journal writes entries to the pipe that the helper inherited.
type journal struct{ out *os.File }

func (j journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = j.out.Write(append(line, '\n'))
	return err
}
