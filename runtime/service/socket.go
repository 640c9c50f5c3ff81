package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/gate/socket"
	"corsa.dev/corsa/runtime/sockpath"
	"corsa.dev/corsa/spec"
)

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := sockpath.With(path, func(name string) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", name)
		return err
	})
	return conn, err
}

// listenControl binds the control socket, which only its owner may connect to. The caller holds the monitor's lock,
// so what stands there is a dead monitor's. The socket file is left when the listener is closed.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var l *net.UnixListener
	err := sockpath.With(path, func(name string) (err error) {
		old := unix.Umask(0o177) // between bind and chmod anybody could connect
		defer unix.Umask(old)
		l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// removePublic removes what stands at the service's public unix sockets after its end. svc is as seen from outside.
func removePublic(svc *spec.Service) error {
	var errs []error
	for _, e := range svc.Endpoints {
		if e.Network == "unix" {
			errs = append(errs, socket.RemoveStale(e.Address))
		}
	}
	return errors.Join(errs...)
}
