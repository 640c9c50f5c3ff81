package check

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says what an open file is. For anonymous inodes it is the kernel's own name for them.
type Kind string

// The kinds that can be carried into an instance. Others appear only together with a blocker.
const (
	KindFile       Kind = "file"
	KindDirectory  Kind = "directory"
	KindPath       Kind = "path" // O_PATH
	KindPipe       Kind = "pipe"
	KindFIFO       Kind = "fifo" // a pipe with a name in a file system
	KindTerminal   Kind = "terminal"
	KindDevice     Kind = "device"
	KindBinder     Kind = "binder" // a device of a binderfs
	KindNamespace  Kind = "namespace"
	KindEpoll      Kind = "epoll"
	KindEventfd    Kind = "eventfd"
	KindTimerfd    Kind = "timerfd"
	KindSignalfd   Kind = "signalfd"
	KindInotify    Kind = "inotify"
	KindListener   Kind = "listener"
	KindSocketPair Kind = "socketpair" // both ends in this process
	KindSocket     Kind = "socket"
)

// FD is one open descriptor of the process.
type FD struct {
	FD     int    `json:"fd"`
	Kind   Kind   `json:"kind"`
	Target string `json:"target"` // the path, or what /proc shows instead
	Flags  int    `json:"flags"`  // of open(2), from fdinfo
	Inode  uint64 `json:"inode"`
	// Internal says that all ends of a pipe or socket pair are in this process. A pipe that is not internal is
	// shared by all instances.
	Internal bool `json:"internal,omitempty"`
	// Shared says that the file is at or below a declared shared path.
	Shared bool `json:"shared,omitempty"`
	// Private says that the file is at or below a private directory.
	Private bool `json:"private,omitempty"`
	// Listener is the index of the address in Options.Listeners, for KindListener; else -1.
	Listener int `json:"listener"`
}

// openFile is one descriptor while it is inspected.
type openFile struct {
	FD
	stat unix.Stat_t
	info fdInfo
}

// object names the descriptor in a blocker.
func (f *openFile) object(what string) string { return fmt.Sprintf("fd %d (%s)", f.FD.FD, what) }

func (f *openFile) writable() bool { return f.Flags&unix.O_ACCMODE != unix.O_RDONLY }

// fdInfo is what /proc/PID/fdinfo/N says.
type fdInfo struct {
	flags   int
	locks   []string
	targets []epollTarget
	scmFDs  int // descriptors in flight in a unix socket
	pid     int // of a pidfd
}

type epollTarget struct {
	fd    int
	inode uint64
}

func (in *inspection) checkDescriptors() error {
	var err error
	if in.table, err = in.readTable(); err != nil {
		return err
	}
	for _, f := range in.table {
		in.checkDescriptor(f)
		in.report.FDs = append(in.report.FDs, f.FD)
	}
	return nil
}

func (in *inspection) readTable() ([]*openFile, error) {
	entries, err := os.ReadDir(in.dir + "/fd")
	if err != nil {
		return nil, err
	}
	var table []*openFile
	for _, entry := range entries {
		n, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("%s/fd: %w", in.dir, err)
		}
		f, err := in.readDescriptor(n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		} else if err != nil {
			return nil, err
		}
		table = append(table, f)
	}
	slices.SortFunc(table, func(a, b *openFile) int { return cmp.Compare(a.FD.FD, b.FD.FD) })
	return table, nil
}

func (in *inspection) readDescriptor(n int) (*openFile, error) {
	path := fmt.Sprintf("%s/fd/%d", in.dir, n)
	f := &openFile{FD: FD{FD: n, Listener: -1}}
	var err error
	if f.Target, err = os.Readlink(path); err != nil {
		return nil, err
	}
	if err := unix.Stat(path, &f.stat); err != nil {
		return nil, fmt.Errorf("fd %d (%s): %w", n, f.Target, err)
	}
	f.Inode = f.stat.Ino
	data, err := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", in.dir, n))
	if err != nil {
		return nil, err
	}
	if f.info, err = parseFDInfo(string(data)); err != nil {
		return nil, fmt.Errorf("fdinfo of fd %d: %w", n, err)
	}
	f.Flags = f.info.flags
	return f, nil
}

func parseFDInfo(text string) (info fdInfo, err error) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "flags":
			n, err := strconv.ParseInt(value, 8, 64)
			if err != nil {
				return info, err
			}
			info.flags = int(n)
		case "lock":
			info.locks = append(info.locks, value)
		case "scm_fds":
			if info.scmFDs, err = strconv.Atoi(value); err != nil {
				return info, err
			}
		case "Pid":
			if info.pid, err = strconv.Atoi(value); err != nil {
				return info, err
			}
		case "tfd":
			target, err := parseEpollTarget(value)
			if err != nil {
				return info, err
			}
			info.targets = append(info.targets, target)
		}
	}
	return info, nil
}

// parseEpollTarget reads "5 events: 19 data: 5 pos:0 ino:39 sdev:a".
func parseEpollTarget(text string) (t epollTarget, err error) {
	number, rest, _ := strings.Cut(text, " ")
	if t.fd, err = strconv.Atoi(number); err != nil {
		return t, err
	}
	if _, rest, found := strings.Cut(rest, "ino:"); found {
		inode, _, _ := strings.Cut(rest, " ")
		t.inode, err = strconv.ParseUint(inode, 16, 64)
	}
	return t, err
}

func (in *inspection) checkDescriptor(f *openFile) {
	if f.Flags&unix.O_ASYNC != 0 {
		in.block(f.object(f.Target), "signal-driven I/O (O_ASYNC) is on, and its signal would go to the original process",
			"let the service use epoll or poll")
	}
	if f.Flags&unix.O_PATH != 0 {
		f.Kind = KindPath
		return
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		in.checkFile(f)
	case unix.S_IFDIR:
		f.Kind, f.Private = KindDirectory, in.isPrivate(f.Target)
		in.checkLocks(f)
	case unix.S_IFCHR:
		in.checkDevice(f)
	case unix.S_IFBLK:
		f.Kind = KindDevice
		in.block(f.object(f.Target), "it is a block device, whose contents are common to all instances", "let the service use a file")
	case unix.S_IFIFO:
		in.checkPipe(f)
	case unix.S_IFSOCK:
		in.checkSocket(f)
	default:
		in.checkAnonymous(f)
	}
}
