package engine

import "errors"

// ErrHidden says that the kernel does not show this process which page frames others have: it lacks CAP_SYS_ADMIN.
var ErrHidden = errors.New("page frame numbers are hidden")

// A Comparer is an Image that can tell how far it is from another. Not all engines' images are.
type Comparer interface {
	// Dirty counts the pages of this image's private memory whose contents are not those of parent, an image of the
	// same service. Pages that only parent has do not count. It walks page tables: O(resident memory), and reads
	// both pages where they are not one; not for the transaction path. It may overlap with all other calls: if one of
	// the images is discarded meanwhile the error is ErrGone. ErrHidden.
	Dirty(parent Image) (pages int64, err error)
}
