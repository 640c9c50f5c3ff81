package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

// imageFlags are those that a checkpoint and a restore of a container share.
type imageFlags struct {
	image, work    string
	tcpEstablished bool
	extUnixSockets bool
	shellJob       bool
	fileLocks      bool
	autoDedup      bool
	lazyPages      bool
	emptyNS        []string
	cgroupsMode    string
	timeout        time.Duration
}

func (f *imageFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.image, "image-path", "", "directory of the image (default: checkpoint, in the working directory)")
	fs.StringVar(&f.work, "work-path", "", "directory for CRIU's log and statistics")
	fs.BoolVar(&f.tcpEstablished, "tcp-established", false, "carry established TCP connections")
	fs.BoolVar(&f.extUnixSockets, "ext-unix-sk", false, "carry unix sockets whose other end is outside")
	fs.BoolVar(&f.shellJob, "shell-job", false, "allow a session and a terminal of the caller's")
	fs.BoolVar(&f.fileLocks, "file-locks", false, "carry file locks")
	fs.BoolVar(&f.autoDedup, "auto-dedup", false, "remove from parent images, or when restoring from the image itself, the pages that are not needed any more")
	fs.BoolVar(&f.lazyPages, "lazy-pages", false, "carry memory when it is touched (userfaultfd)")
	fs.StringArrayVar(&f.emptyNS, "empty-ns", nil, "namespace that is restored empty: network; may be repeated")
	fs.StringVar(&f.cgroupsMode, "manage-cgroups-mode", "", "soft, full, strict or ignore (default soft)")
	fs.DurationVar(&f.timeout, "timeout", criu.DefaultTimeout, "how long CRIU may take")
}

// options checks the flags. The directories are not looked at.
func (f *imageFlags) options() (criu.Options, error) {
	o := criu.Options{
		TCPEstablished: f.tcpEstablished, ExtUnixSockets: f.extUnixSockets, ShellJob: f.shellJob, FileLocks: f.fileLocks,
		AutoDedup: f.autoDedup, LazyPages: f.lazyPages, CgroupsMode: f.cgroupsMode, Timeout: f.timeout,
	}
	for _, ns := range f.emptyNS {
		if ns != "network" {
			return o, usagef("--empty-ns %q: must be network", ns)
		}
		o.EmptyNetwork = true
	}
	if f.timeout <= 0 {
		return o, usagef("--timeout %s: must be positive", f.timeout)
	}
	var err error
	if f.image == "" {
		f.image = "checkpoint"
	}
	if o.ImageDir, err = filepath.Abs(f.image); err != nil {
		return o, err
	}
	if f.work != "" {
		if o.WorkDir, err = filepath.Abs(f.work); err != nil {
			return o, err
		}
	}
	return o, nil
}

// containerCheckpointFlags are those of a checkpoint without --app.
type containerCheckpointFlags struct {
	imageFlags
	parent          string
	leaveRunning    bool
	preDump         bool
	tcpSkipInFlight bool
	linkRemap       bool
	pageServer      string
	statusFD        int
}

func (f *containerCheckpointFlags) add(cmd *cobra.Command) {
	f.imageFlags.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.parent, "parent-path", "", "earlier image of the container, relative to --image-path: only other pages are kept in this one")
	fs.BoolVar(&f.leaveRunning, "leave-running", false, "let the container go on")
	fs.BoolVar(&f.preDump, "pre-dump", false, "write memory only and let the container go on; needs a kernel with soft-dirty pages")
	fs.BoolVar(&f.tcpSkipInFlight, "tcp-skip-in-flight", false, "leave out TCP connections that are being made")
	fs.BoolVar(&f.linkRemap, "link-remap", false, "give deleted files that are still open a name again where possible")
	fs.StringVar(&f.pageServer, "page-server", "", "ADDRESS:PORT of the page server that takes the memory")
	fs.IntVar(&f.statusFD, "status-fd", -1, "descriptor that receives a zero byte when --lazy-pages can begin to fetch")
}

func (f *containerCheckpointFlags) dump() (*criu.Dump, error) {
	o, err := f.options()
	if err != nil {
		return nil, err
	}
	d := &criu.Dump{
		Options: o, Parent: f.parent, LeaveRunning: f.leaveRunning, PreDump: f.preDump, TCPSkipInFlight: f.tcpSkipInFlight,
		LinkRemap: f.linkRemap,
	}
	if f.pageServer != "" {
		if d.PageServer, err = criu.ParsePageServer(f.pageServer); err != nil {
			return nil, &usageError{fmt.Errorf("--page-server: %w", err)}
		}
	}
	if filepath.IsAbs(f.parent) {
		return nil, usagef("--parent-path %s: must be relative to --image-path, so that both can be moved together", f.parent)
	}
	if f.statusFD >= 0 {
		flags, err := unix.FcntlInt(uintptr(f.statusFD), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
			return nil, errors.Join(usagef("--status-fd %d: must be open for writing", f.statusFD), err)
		}
		d.StatusFile = os.NewFile(uintptr(f.statusFD), "status descriptor")
	}
	return d, nil
}

// checkpoint dumps container id.
func (f *containerCheckpointFlags) checkpoint(cmd *cobra.Command, g *globals, id string) error {
	d, err := f.dump()
	if err != nil {
		return err
	}
	if d.StatusFile != nil {
		defer d.StatusFile.Close()
	}
	s, err := sandbox.Load(g.Root, id)
	if err != nil {
		return err
	}
	if err := service.RefuseDump(s); err != nil {
		return err
	}
	if d.Program, err = g.findCRIU(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	return s.Checkpoint(ctx, d)
}

// findCRIU is the CRIU that container verbs take.
func (g *globals) findCRIU() (criu.Program, error) { return criu.Find(g.CRIU) }
