package check

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/kmod/client"
)

// isBinder tells whether a link of /proc leads to a device of a binderfs. A device has the file system of its file.
func isBinder(link string) bool {
	var st unix.Statfs_t
	return unix.Statfs(link, &st) == nil && st.Type == unix.BINDERFS_SUPER_MAGIC
}

const (
	binderReason = "to the Binder driver a copy would be another process, without its objects and callers"
	binderWayOut = "declare the service with --gate binder, on a host with corsa.ko"
)

// binderMapping tells whether a mapping is a Binder buffer that the gate virtualises.
func (in *inspection) binderMapping(m *mapping) bool {
	return isBinder(in.dir + "/map_files/" + m.span)
}

// binderGated says that an engine is to stand between the process and its callers.
func (in *inspection) binderGated() bool { return in.opts.Binder && in.inPlace() }

// checkBinder looks at a descriptor of a Binder device.
func (in *inspection) checkBinder(f *openFile) {
	f.Kind = KindBinder
	if !in.binderGated() {
		in.block(f.object(f.Target), binderReason, binderWayOut)
	}
}

func testBinder() (string, error) {
	s := binderfs.Probe()
	switch s.Offer {
	case binderfs.OfferFilesystem:
		return s.Detail, nil
	case binderfs.OfferNodes, binderfs.OfferNone:
		return "", &absence{s.Detail, s.WayOut}
	}
	return "", errors.New(s.Detail)
}

func testBinderGate() (string, error) {
	d, err := client.Open()
	if errors.Is(err, client.ErrNoModule) {
		return "", absent("%v", err)
	}
	if err != nil {
		return "", err
	}
	v := d.Version()
	if err := d.Close(); err != nil {
		return "", err
	}
	if v.Features&client.FeatureBinder == 0 {
		return "", absent("the module (version %s) was built without it", v)
	}
	return fmt.Sprintf("in corsa.ko, version %s", v), nil
}
