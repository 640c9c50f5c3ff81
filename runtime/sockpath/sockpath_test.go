package sockpath

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestALongPathIsBoundAndConnected(t *testing.T) {
	for _, length := range []int{10, 100, 200} {
		dir := filepath.Join(t.TempDir(), strings.Repeat("d", length))
		if err := unix.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "s.sock")
		var l *net.UnixListener
		err := With(path, func(name string) (err error) {
			if (name == path) != (len(path) <= Max) {
				t.Errorf("%d bytes: %s", len(path), name)
			}
			l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		defer l.Close()
		err = With(path, func(name string) error {
			c, err := net.Dial("unix", name)
			if err == nil {
				err = c.Close()
			}
			return err
		})
		if err != nil {
			t.Errorf("%d bytes: %v", len(path), err)
		}
	}
	if err := With(filepath.Join(t.TempDir(), strings.Repeat("n", 100), "s"), func(string) error { return nil }); err == nil {
		t.Error("a directory that is not there is no error")
	}
}
