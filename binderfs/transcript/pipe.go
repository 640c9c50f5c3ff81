package transcript

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// openPipe opens a file of tracefs whose reads wait, and can be given up by a deadline.
func openPipe(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("tracing: open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
