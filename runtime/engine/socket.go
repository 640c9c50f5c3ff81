package engine

import (
	"context"
	"errors"
)

// ErrNoSocket says that an instance does not have a socket, or has closed it.
var ErrNoSocket = errors.New("the instance has no such socket")

// Socket is a socket in an instance's descriptor table.
type Socket struct {
	Inode uint64
	FD    int // its lowest number there, when it was last looked at
	// Listener is the index of the instance's own listener that it was accepted from, or -1.
	Listener int
	// Local is the name that it is bound to. One that was accepted has that of the listener it came from.
	Local string
}

// SocketHolder is implemented by an Instance whose connections may be the apps' own sockets. All descriptors that it
// takes and returns belong to the caller; returned ones are close-on-exec.
type SocketHolder interface {
	Instance
	// ReplaceSocket puts a connected unix stream socket, of which fd is a descriptor, in the place of the one with the inode
	// old, under all of its numbers and in all epoll sets, with its flags and options. The instance has to be dormant. Nothing
	// may be unread in the old socket, else the error is ErrBusy; the other end finds it closed afterwards. via is the
	// caller's end of the old connection, or -1: with it this takes half the time. What cannot be carried over is refused
	// by name; then, and after ErrBusy, nothing has changed. ErrNoSocket. After any other error the new socket has been shut
	// down, or the instance is dying.
	ReplaceSocket(ctx context.Context, old uint64, fd, via int) (Socket, error)
	// DuplicateSocket returns a descriptor of s. It works in any state, also after the death of the instance until Kill:
	// what a dead instance had open stays open until then. ErrNoSocket.
	DuplicateSocket(s Socket) (int, error)
	// HoldsSocket reports whether s is still open under its number.
	HoldsSocket(s Socket) bool
	// AcceptedSockets lists the connected unix stream sockets that have a name, which those have that were accepted. It
	// reads the whole table.
	AcceptedSockets() ([]Socket, error)
	// ListenerSockets lists the instance's own unix listeners, in the order of Target.Listeners without the others.
	ListenerSockets() ([]Socket, error)
	// Unsettled reports whether a thread of the dormant instance was parked with something to do: a waiting call had just
	// returned with a result. It is on the transaction path.
	Unsettled() bool
	// Working reports whether a thread of the dormant instance was parked at an instruction of its own, or had been woken by
	// another one. It is on the transaction path.
	Working() bool
	// Sleeps reports whether a thread of the dormant instance waits for less than a second to pass, perhaps in the middle of a
	// request. It is on the transaction path.
	Sleeps() bool
	// Ready reports whether a call in which a thread of the dormant instance waits for descriptors would return at once. It
	// is on the transaction path.
	Ready() bool
}
