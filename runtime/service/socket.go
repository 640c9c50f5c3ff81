package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/gate/socket"
	"corsa.dev/corsa/spec"
)

// maxSunPath is how long the name of a unix socket may be, without the final zero byte.
const maxSunPath = 107

// shortName is a name of path that fits into a socket address. The directory has to stay open while it is used.
func shortName(path string) (name string, release func(), err error) {
	if len(path) <= maxSunPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + filepath.Base(path), func() { _ = unix.Close(fd) }, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	name, release, err := shortName(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	return d.DialContext(ctx, "unix", name)
}

// listenControl binds the control socket, which only its owner may connect to. The caller holds the monitor's lock,
// so what stands there is a dead monitor's. The socket file is left when the listener is closed.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	name, release, err := shortName(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer release()
	old := unix.Umask(0o177) // between bind and chmod anybody could connect
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// removePublic removes what stands at the service's public unix sockets after its end.
func removePublic(svc *spec.Service) error {
	var errs []error
	for _, e := range svc.Endpoints {
		if e.Network == "unix" {
			errs = append(errs, socket.RemoveStale(e.Address))
		}
	}
	return errors.Join(errs...)
}
