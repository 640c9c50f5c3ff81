package check

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"golang.org/x/sys/unix"
)

// resolveBroker finds out what the declared device is.
func (in *inspection) resolveBroker() error {
	if in.opts.Broker == "" {
		return nil
	}
	err := unix.Stat(in.opts.Broker, &in.broker)
	if errors.Is(err, fs.ErrNotExist) || err == nil && in.broker.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fmt.Errorf("%s is no Binder device", in.opts.Broker)
	}
	return err
}

// isBroker tells whether the open file is that device.
func (in *inspection) isBroker(f *openFile) bool {
	return in.opts.Broker != "" && f.stat.Dev == in.broker.Dev && f.Inode == in.broker.Ino
}

// mapsBroker tells whether a mapping is that device's.
func (in *inspection) mapsBroker(m *mapping) bool {
	if in.opts.Broker == "" || m.inode != strconv.FormatUint(in.broker.Ino, 10) {
		return false
	}
	return m.device == fmt.Sprintf("%02x:%02x", unix.Major(in.broker.Dev), unix.Minor(in.broker.Dev))
}
