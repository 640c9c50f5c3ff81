package engine

import "context"

// A Warmer is a Service whose instances share memory with what they were branched from until they first touch it. Most of the
// time that a first request takes is for that, and it can be taken beforehand.
type Warmer interface {
	// Learn notes what in, which belongs to the caller and is to have served requests, has come to use of its memory. It reads
	// page tables, O(resident memory), may overlap with everything but Kill and does not hold up the instance, which may have died.
	// ErrGone, ErrHidden.
	Learn(in Instance) error
	// Warm has in, which has never been active since it was branched, take the faults on what instances have been found to
	// use. What the service sees does not change. It costs the memory of those pages, 2 MiB at the most. Without anything
	// learnt it does nothing. ErrGone.
	Warm(ctx context.Context, in Instance) error
}
