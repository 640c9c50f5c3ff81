package fork

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A service that runs on while its engine is replaced opens and closes descriptors.
func TestLeftoversOfARunningService(t *testing.T) {
	memfd, err := unix.MemfdCreate("corsa", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memfd)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				done <- err
				return
			}
			unix.Close(fd)
		}
	}()
	for range 5_000 {
		fds, err := leftovers(os.Getpid())
		if err != nil {
			t.Error(err)
			break
		}
		if !slices.Contains(fds, memfd) {
			t.Errorf("%d is not among %v", memfd, fds)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
