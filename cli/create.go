package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

// createFlags are those of every verb that creates a container.
type createFlags struct {
	bundle        string
	consoleSocket string
	pidfdSocket   string
	pidFile       string
	noPivot       bool
	noNewKeyring  bool
	preserveFDs   int
}

func (f *createFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.bundle, "bundle", "b", ".", "bundle directory")
	fs.StringVar(&f.consoleSocket, "console-socket", "", "unix socket that receives the master of the process's terminal")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the host pid of the container's first process to")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "do not use pivot_root; for a root on a ramdisk")
	fs.BoolVar(&f.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	fs.IntVar(&f.preserveFDs, "preserve-fds", 0, "pass on N further descriptors, from 3 or behind those of $LISTEN_FDS")
}

// addPidfd is for verbs whose first process is not CRIU's.
func (f *createFlags) addPidfd(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pidfdSocket, "pidfd-socket", "", "unix socket that receives a pidfd of the container's first process")
}

// options reads the bundle. stdio is left to the caller.
func (f *createFlags) options(g *globals, id string) (sandbox.Options, error) {
	bundle, err := filepath.Abs(f.bundle)
	if err != nil {
		return sandbox.Options{}, err
	}
	spec, err := sandbox.LoadSpec(bundle)
	if err != nil {
		return sandbox.Options{}, err
	}
	declared, err := service.Declared(spec.Annotations)
	if err != nil {
		return sandbox.Options{}, fmt.Errorf("%s: %w", bundle, err)
	}
	listening := listeningFiles(spec.Process)
	preserved, err := preservedFiles(3+len(listening), f.preserveFDs)
	if err != nil {
		return sandbox.Options{}, err
	}
	pidfd, err := dialPidfd(f.pidfdSocket)
	if err != nil {
		return sandbox.Options{}, err
	}
	return sandbox.Options{
		PidfdSocket:     pidfd, // open until corsa exits
		Root:            g.Root,
		ID:              id,
		Bundle:          bundle,
		Spec:            spec,
		PIDFile:         f.pidFile,
		ExtraFiles:      append(listening, preserved...),
		NoPivot:         f.noPivot,
		NoNewKeyring:    f.noNewKeyring,
		SystemdCgroup:   g.SystemdCgroup,
		RootlessCgroups: g.Rootless,
		// Instances of a service are not its children; somebody has to reap them.
		Reaper: declared != nil,
	}, nil
}

func newCreateCommand(g *globals) *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create [flags] ID",
		Short: "Create a container; `start` executes its program",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(g, args[0])
			if err != nil {
				return err
			}
			_, err = createDetached(cmd.Context(), o, f.consoleSocket)
			return err
		},
	}
	f.add(cmd)
	f.addPidfd(cmd)
	return cmd
}

// createDetached creates a container whose process has our standard streams, or a terminal of consoleSocket's owner.
func createDetached(ctx context.Context, o sandbox.Options, consoleSocket string) (*sandbox.Sandbox, error) {
	stdio, closeStdio, err := detachedStdio(o.Spec.Process, consoleSocket)
	if err != nil {
		return nil, err
	}
	defer closeStdio()
	o.Stdio = stdio
	return sandbox.Create(ctx, o)
}

// detachedStdio is for a process that corsa does not wait for.
func detachedStdio(p *specs.Process, consoleSocket string) (sandbox.Stdio, func(), error) {
	if consoleSocket == "" && !p.Terminal {
		return sandbox.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, func() {}, nil
	}
	if consoleSocket == "" {
		return sandbox.Stdio{}, nil, usagef("the process has a terminal and corsa does not stay with it: --console-socket is needed")
	}
	if !p.Terminal {
		return sandbox.Stdio{}, nil, usagef("--console-socket: the process has no terminal; set process.terminal in config.json, or use exec --tty")
	}
	socket, err := sandbox.DialConsole(consoleSocket)
	if err != nil {
		return sandbox.Stdio{}, nil, err
	}
	return sandbox.Stdio{Console: socket}, func() { _ = socket.Close() }, nil
}

// dialPidfd is the socket for a pidfd; nil, which can be closed too, if there is no path.
func dialPidfd(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	return sandbox.DialPidfd(path)
}

// listeningFiles are the sockets that a service manager has opened for us (sd_listen_fds(3)). p is told of them: it has
// them from descriptor 3, and it is pid 1 where it looks.
func listeningFiles(p *specs.Process) []*os.File {
	files := activation.Files(false)
	if len(files) == 0 {
		return nil
	}
	p.Env = append(p.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_PID=1")
	if names := os.Getenv("LISTEN_FDNAMES"); names != "" {
		p.Env = append(p.Env, "LISTEN_FDNAMES="+names)
	}
	return files
}

// preservedFiles are n of our descriptors, from first.
func preservedFiles(first, n int) ([]*os.File, error) {
	if n < 0 {
		return nil, usagef("--preserve-fds %d: must not be negative", n)
	}
	var files []*os.File
	for fd := first; fd < first+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("--preserve-fds %d: descriptor %d: %w", n, fd, err)
		}
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd)))
	}
	return files, nil
}
