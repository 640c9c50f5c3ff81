package fork

import "corsa.dev/corsa/runtime/engine"

// plan describes the descriptors of a captured process that an instance must not share with anyone: what they
// are and what is in them. Descriptors that are not in the plan (standard streams, read-only devices, files that
// the owner declared shared) are inherited as they are.
type plan struct {
	FDs  []planFD `json:"fds"`
	Open int      `json:"open"` // descriptors in the table, planned or not
}

// fdKind says how a descriptor is made anew.
type fdKind string

const (
	fdListen  fdKind = "listen"  // a listener of the service: a socket of the instance's own
	fdConn    fdKind = "conn"    // a connection of the gate's: re-plumbed, or at its end of file
	fdEpoll   fdKind = "epoll"   // made in the instance, interest list re-added
	fdEvent   fdKind = "eventfd" // with its count
	fdTimer   fdKind = "timerfd" // with the time that was left
	fdSignal  fdKind = "signalfd"
	fdFile    fdKind = "file" // a read-only file or directory, with its offset
	fdPipe    fdKind = "pipe" // both ends in the process, with what was in it
	fdPair    fdKind = "pair" // a socket pair within the process, likewise
	fdClosed  fdKind = "closed"
	fdMaximum        = 1 << 16
)

type planFD struct {
	FD    int    `json:"fd"`
	Kind  fdKind `json:"kind"`
	Flags int    `json:"flags"`           // open flags as in fdinfo, O_CLOEXEC among them
	DupOf int    `json:"dupOf,omitempty"` // 1 + the descriptor that has the same open file description, or 0

	Listener int           `json:"listener,omitempty"` // fdListen: index into Target.Listeners
	Backlog  int           `json:"backlog,omitempty"`
	Conn     engine.ConnID `json:"conn,omitempty"`
	Family   int           `json:"family,omitempty"` // sockets
	Type     int           `json:"type,omitempty"`
	Options  []sockOption  `json:"options,omitempty"`
	Inode    uint64        `json:"inode,omitempty"` // sockets and pipes
	Peer     int           `json:"peer,omitempty"`  // fdPipe, fdPair: the descriptor of the other end
	Data     []byte        `json:"data,omitempty"`  // what can be read from it
	Pos      int64         `json:"pos,omitempty"`
	Count    uint64        `json:"count,omitempty"` // eventfd
	Clock    int           `json:"clock,omitempty"` // timerfd
	Absolute bool          `json:"absolute,omitempty"`
	Value    [2]int64      `json:"value,omitempty"` // timerfd: seconds, nanoseconds left
	Interval [2]int64      `json:"interval,omitempty"`
	Sigmask  uint64        `json:"sigmask,omitempty"`
	Watches  []epollWatch  `json:"watches,omitempty"`
}

// epollWatch is one entry of an interest list.
type epollWatch struct {
	FD     int    `json:"fd"`
	Events uint32 `json:"events"`
	Data   uint64 `json:"data"`
}

// sockOption is one integer or timeval option of a socket that a service may have set.
type sockOption struct {
	Level int    `json:"level"`
	Name  int    `json:"name"`
	Value []byte `json:"value"`
}

// virtual lists the descriptors of the plan.
func (p *plan) virtual() []int {
	out := make([]int, len(p.FDs))
	for i := range p.FDs {
		out[i] = p.FDs[i].FD
	}
	return out
}

func (p *plan) byFD(fd int) *planFD {
	for i := range p.FDs {
		if p.FDs[i].FD == fd {
			return &p.FDs[i]
		}
	}
	return nil
}
