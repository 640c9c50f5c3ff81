// Package fdplan says what the descriptors of a captured service are and makes them anew for an instance.
//
// A Plan is data: it is taken from a process none of whose threads runs, and it is journaled with the image. A Maker
// turns it into sockets, pipes and timers of the engine's own, which the engine then puts at their numbers. Epoll
// sets are not made here: an entry belongs to the descriptor table in which it was added, so that is up to the engine.
package fdplan

import "corsa.dev/corsa/runtime/engine"

// Plan describes the descriptors of a captured process that an instance must not share with anyone: what they
// are and what is in them. Descriptors that are not in the plan (standard streams, read-only devices, files that
// the owner declared shared) are inherited as they are.
type Plan struct {
	FDs  []FD `json:"fds"`
	Open int  `json:"open"` // descriptors in the table, planned or not
}

// Kind says how a descriptor is made anew.
type Kind string

// The kinds.
const (
	Listen Kind = "listen"  // a listener of the service: a socket of the instance's own
	Conn   Kind = "conn"    // a connection of the gate's: re-plumbed, or at its end of file
	Epoll  Kind = "epoll"   // made in the instance, interest list re-added
	Event  Kind = "eventfd" // with its count
	Timer  Kind = "timerfd" // with the time that was left
	Signal Kind = "signalfd"
	Notify Kind = "inotify" // with its watches under their numbers
	File   Kind = "file"    // a read-only file or directory, with its offset
	// OwnFile is a file or directory below a private directory, with its flags and offset: opened anew in the
	// instance's own copy of that.
	OwnFile Kind = "private"
	Pipe    Kind = "pipe"   // both ends in the process, with what was in it
	Pair    Kind = "pair"   // a socket pair within the process, likewise
	Closed  Kind = "closed" // a unix socket whose peer has gone
	Binder  Kind = "binder" // a Binder device: opened anew, mapped and published by the engine
)

// FD is one descriptor.
type FD struct {
	FD    int  `json:"fd"`
	Kind  Kind `json:"kind"`
	Flags int  `json:"flags"`           // open flags as in fdinfo, O_CLOEXEC among them
	DupOf int  `json:"dupOf,omitempty"` // 1 + the descriptor that has the same open file description, or 0

	Listener int           `json:"listener,omitempty"` // Listen: index into Target.Listeners
	Backlog  int           `json:"backlog,omitempty"`
	Conn     engine.ConnID `json:"conn,omitempty"`
	Family   int           `json:"family,omitempty"` // sockets
	Type     int           `json:"type,omitempty"`
	Options  []Option      `json:"options,omitempty"`
	Inode    uint64        `json:"inode,omitempty"`    // sockets and pipes
	Peer     int           `json:"peer,omitempty"`     // Pipe, Pair: the descriptor of the other end
	Data     []byte        `json:"data,omitempty"`     // what can be read from it, of streams
	Messages [][]byte      `json:"messages,omitempty"` // Pair: likewise, of sockets that keep messages apart
	Buffers  [2]int        `json:"buffers,omitzero"`   // Pair: bytes to send and to receive, as getsockopt gives them
	Shutdown int           `json:"shutdown,omitempty"` // Pair: 1 it reads no more, 2 it writes no more, or both
	Pos      int64         `json:"pos,omitempty"`
	Saved    string        `json:"saved,omitempty"`    // OwnFile: where, below Maker.Saved, a file lies that has no name any more
	Locks    []Lock        `json:"locks,omitempty"`    // OwnFile
	Place    *Place        `json:"place,omitempty"`    // OwnFile
	Count    uint64        `json:"count,omitempty"`    // eventfd
	Clock    int           `json:"clock,omitempty"`    // timerfd
	SetFlags int           `json:"setFlags,omitempty"` // timerfd: of timerfd_settime
	Value    [2]int64      `json:"value,omitempty"`    // timerfd: seconds, nanoseconds left; the deadline with TFD_TIMER_ABSTIME
	Interval [2]int64      `json:"interval,omitempty"`
	Due      bool          `json:"due,omitempty"` // timerfd: it has fired and was not read
	Sigmask  uint64        `json:"sigmask,omitempty"`
	Watches  []Watch       `json:"watches,omitempty"` // epoll
	Binder   *BinderOpen   `json:"binder,omitempty"`

	Notified []NotifyWatch `json:"notified,omitempty"` // inotify, in the order of their numbers
}

// BinderOpen is what an open Binder device is to its process. The engine fills it in.
type BinderOpen struct {
	Start      uint64       `json:"start,omitempty"` // of the mapping for incoming parcels
	Size       uint64       `json:"size,omitempty"`  // bytes; 0: there is no mapping
	MaxThreads uint32       `json:"maxThreads"`      // that the driver may still ask for
	Loopers    []int        `json:"loopers,omitempty"`
	Poller     int          `json:"poller,omitempty"`  // the one looper that polls the device, or 0
	Manager    bool         `json:"manager,omitempty"` // it holds a reference to the context manager
	Nodes      []BinderNode `json:"nodes,omitempty"`
}

// BinderNode is an object of the process to which others have references.
type BinderNode struct {
	Ptr    uint64 `json:"ptr"`
	Cookie uint64 `json:"cookie"`
}

// Place is where a file is below the private directories.
type Place struct {
	Dir  int    `json:"dir"`  // index into Target.Private
	Path string `json:"path"` // below it; "." is the directory itself
}

// Watch is one entry of an interest list.
type Watch struct {
	FD     int    `json:"fd"`
	Events uint32 `json:"events"`
	Data   uint64 `json:"data"`
	// File is 1 + the descriptor that has the watched file, if that is not FD any more: the set was told of the file under
	// the number FD, which was closed while a duplicate stayed.
	File int `json:"file,omitempty"`
	// Taken says, if File is set, that FD is another file now; Cloexec is that descriptor's flag.
	Taken   bool `json:"taken,omitempty"`
	Cloexec bool `json:"cloexec,omitempty"`
}

// Option is one integer or timeval option of a socket that a service may have set.
type Option struct {
	Level int    `json:"level"`
	Name  int    `json:"name"`
	Value []byte `json:"value"`
}

// Virtual lists the descriptors of the plan.
func (p *Plan) Virtual() []int {
	out := make([]int, len(p.FDs))
	for i := range p.FDs {
		out[i] = p.FDs[i].FD
	}
	return out
}

// ByFD returns what is planned for descriptor fd, or nil.
func (p *Plan) ByFD(fd int) *FD {
	for i := range p.FDs {
		if p.FDs[i].FD == fd {
			return &p.FDs[i]
		}
	}
	return nil
}
