package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// DefaultTimeout is how long a dump or a restore may take if nobody says so.
const DefaultTimeout = 10 * time.Minute

// ghostLimit is how large a deleted file that is still open may be, in bytes: it becomes part of the image.
const ghostLimit = 64 << 20

// logLevel makes CRIU's log tell what it did when something fails. 4 is everything.
const logLevel = 4

var (
	// ErrOptions says that options contradict each other or name what cannot be.
	ErrOptions = errors.New("invalid option")
	// ErrTimeout says that CRIU took longer than Options.Timeout.
	ErrTimeout = errors.New("CRIU took too long")
)

// Options are those that a dump and a restore share.
type Options struct {
	Program  Program
	ImageDir string // absolute
	// WorkDir is where the log goes, absolute. "": ImageDir.
	WorkDir string
	// Timeout bounds the whole call. 0: DefaultTimeout.
	Timeout time.Duration
	// ConfigFile is read by CRIU and overrides everything else. "": none, not even that of the host.
	ConfigFile string

	TCPEstablished bool
	ExtUnixSockets bool
	ShellJob       bool
	FileLocks      bool
	AutoDedup      bool
	LazyPages      bool
	EmptyNetwork   bool   // the network namespace is restored empty
	CgroupsMode    string // soft, full, strict, ignore; "": soft
}

// PageServer is the address of a `criu page-server`.
type PageServer struct {
	Address string
	Port    uint16
}

// ParsePageServer reads ADDRESS:PORT.
func ParsePageServer(s string) (*PageServer, error) {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || n == 0 {
		return nil, fmt.Errorf("%w: page server %q: must be ADDRESS:PORT", ErrOptions, s)
	}
	return &PageServer{Address: host, Port: uint16(n)}, nil
}

// Log is where CRIU's log of a call goes; name is dump.log or restore.log.
func (o *Options) log(name string) string {
	if o.WorkDir != "" {
		return filepath.Join(o.WorkDir, name)
	}
	return filepath.Join(o.ImageDir, name)
}

// rpc is the part of the request that the options decide. The files stay open until closeAll is called.
func (o *Options) rpc(logName string) (opts *rpc.CriuOpts, closeAll func(), err error) {
	mode, err := cgroupsMode(o.CgroupsMode)
	if err != nil {
		return nil, nil, err
	}
	image, err := os.Open(o.ImageDir)
	if err != nil {
		return nil, nil, fmt.Errorf("image directory: %w", err)
	}
	opts = &rpc.CriuOpts{
		ImagesDirFd:       proto.Int32(int32(image.Fd())),
		LogLevel:          proto.Int32(logLevel),
		LogFile:           proto.String(logName),
		NotifyScripts:     proto.Bool(true),
		ManageCgroups:     proto.Bool(true), // for old versions
		ManageCgroupsMode: &mode,
		GhostLimit:        proto.Uint32(ghostLimit),
		TcpEstablished:    proto.Bool(o.TCPEstablished),
		ExtUnixSk:         proto.Bool(o.ExtUnixSockets),
		ShellJob:          proto.Bool(o.ShellJob),
		FileLocks:         proto.Bool(o.FileLocks),
		AutoDedup:         proto.Bool(o.AutoDedup),
		LazyPages:         proto.Bool(o.LazyPages),
		OrphanPtsMaster:   proto.Bool(true),
	}
	if o.EmptyNetwork {
		opts.EmptyNs = proto.Uint32(unix.CLONE_NEWNET)
	}
	if o.ConfigFile != "" {
		opts.ConfigFile = proto.String(o.ConfigFile)
	}
	work := image
	if o.WorkDir != "" {
		if err = os.MkdirAll(o.WorkDir, 0o700); err == nil {
			work, err = os.Open(o.WorkDir)
		}
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("work directory: %w", err), image.Close())
		}
		opts.WorkDirFd = proto.Int32(int32(work.Fd()))
	}
	return opts, func() {
		_ = image.Close() // directories: nothing to lose
		_ = work.Close()
	}, nil
}

func cgroupsMode(s string) (rpc.CriuCgMode, error) {
	switch s {
	case "":
		return rpc.CriuCgMode_DEFAULT, nil
	case "soft":
		return rpc.CriuCgMode_SOFT, nil
	case "full":
		return rpc.CriuCgMode_FULL, nil
	case "strict":
		return rpc.CriuCgMode_STRICT, nil
	case "ignore":
		return rpc.CriuCgMode_IGNORE, nil
	}
	return 0, fmt.Errorf("%w: cgroups mode %q: must be soft, full, strict or ignore", ErrOptions, s)
}

// limited is ctx with the call's time limit.
func (o *Options) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := o.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: it was given %s; allow it more, or look into its log", ErrTimeout, limit))
}
