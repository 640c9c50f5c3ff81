package client

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// refusingWire gives an errno for everything, or, at 0, a version.
type refusingWire struct {
	errno unix.Errno
	major uint32
}

func (w refusingWire) Open() (int, unix.Errno) {
	if w.errno != 0 {
		return -1, w.errno
	}
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	var errno unix.Errno
	errors.As(err, &errno) // all errors of it are
	return fd, errno
}

func (w refusingWire) Ioctl(_ int, _ Request, arg unsafe.Pointer) (int, unix.Errno) {
	(*uapi.Version)(arg).Major = w.major
	return 0, 0
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		wire   refusingWire
		loaded bool
		want   Result
		detail string
	}{
		{refusingWire{major: uapi.ABIMajor}, true, Yes, "version 1."},
		{refusingWire{major: uapi.ABIMajor + 1}, true, No, "different versions"},
		{refusingWire{errno: unix.ENOENT}, false, No, "not loaded"},
		{refusingWire{errno: unix.ENOENT}, true, Unknown, "no /dev/corsa here"},
		{refusingWire{errno: unix.EPERM}, true, Unknown, "not permitted"},
	} {
		got := probe(c.wire, func() bool { return c.loaded })
		if got.Result != c.want || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%+v: %+v", c.wire, got)
		}
	}
}

// TestLog asserts that the wire log shows what was asked and what came back, errors too.
func TestLog(t *testing.T) {
	var log bytes.Buffer
	d, err := OpenWith(logged{refusingWire{major: uapi.ABIMajor}, &log})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenWith(logged{refusingWire{errno: unix.EACCES}, &log}); err == nil {
		t.Error("opened")
	}
	for _, want := range []string{"open = ", "version {Size:24 Reserved:0 Major:0", "Major:1", "EACCES"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in\n%s", want, log.String())
		}
	}
}
