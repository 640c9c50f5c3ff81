package engine

import "context"

// A Compactor is an Instance whose memory the engine can put back into huge pages, see Target.HugePages, where writing has
// split them.
type Compactor interface {
	// Compact looks through the memory of the instance and returns how many huge pages it made. It is to be called some time after
	// each checkpoint, when the app is idle: memory that the instance goes on writing to is left alone. It walks page tables,
	// may overlap with all other calls and holds up the instance for no longer than it takes to copy 2 MiB. ErrGone.
	Compact(ctx context.Context) (made int, err error)
}
