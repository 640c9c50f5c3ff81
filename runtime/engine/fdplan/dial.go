package fdplan

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dial connects to the listener; n is the namespace in which it was made. The descriptor is the caller's, non-blocking
// and close-on-exec.
func (l Listener) Dial(n *Netns) (int, error) {
	if l.Network != "unix" {
		port, err := strconv.Atoi(l.Address)
		if err != nil {
			return -1, fmt.Errorf("listener %q: %w", l.Address, err)
		}
		return n.Dial(unix.AF_INET, port)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: l.Address}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Remove removes what the listener has left in the file system.
func (l Listener) Remove() error {
	if l.Network != "unix" {
		return nil
	}
	if err := os.Remove(l.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
