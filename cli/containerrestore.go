package cli

import (
	"context"
	"errors"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

// containerRestoreFlags are those of a restore without --app.
type containerRestoreFlags struct {
	imageFlags
	create          createFlags
	detach          bool
	lsmProfile      string
	lsmMountContext string
}

func (f *containerRestoreFlags) add(cmd *cobra.Command) {
	f.imageFlags.add(cmd)
	f.create.add(cmd)
	fs := cmd.Flags()
	fs.BoolVarP(&f.detach, "detach", "d", false, "return once the container goes on")
	fs.Bool("no-subreaper", false, "accepted for callers of runc; corsa is no subreaper")
	fs.StringVar(&f.lsmProfile, "lsm-profile", "", "TYPE:NAME of the security module's profile in place of the image's")
	fs.StringVar(&f.lsmMountContext, "lsm-mount-context", "", "context of the security module for mounts in place of the image's")
}

func (f *containerRestoreFlags) options(g *globals, id string) (sandbox.RestoreOptions, error) {
	image, err := f.imageFlags.options()
	if err != nil {
		return sandbox.RestoreOptions{}, err
	}
	if err := criu.CheckLSM(f.lsmProfile); err != nil {
		return sandbox.RestoreOptions{}, &usageError{err}
	}
	o, err := f.create.options(g, id)
	if err != nil {
		return sandbox.RestoreOptions{}, err
	}
	if err := service.RefuseRestore(o.Spec, id); err != nil {
		return sandbox.RestoreOptions{}, err
	}
	if image.Program, err = g.findCRIU(); err != nil {
		return sandbox.RestoreOptions{}, err
	}
	return sandbox.RestoreOptions{Options: o, Warn: func(s string) { g.Log.Warn(s) }, CRIU: criu.Restore{
		Options: image, LSMProfile: f.lsmProfile, LSMMountContext: f.lsmMountContext,
	}}, nil
}

// restore makes container id from an image.
func (f *containerRestoreFlags) restore(cmd *cobra.Command, g *globals, id string) error {
	o, err := f.options(g, id)
	if err != nil {
		return err
	}
	if !f.detach {
		if f.create.consoleSocket != "" {
			return usagef("--console-socket is of use with --detach only")
		}
		return f.restoreAttached(cmd.Context(), g, o)
	}
	stdio, closeStdio, err := detachedStdio(o.Spec.Process, f.create.consoleSocket)
	if err != nil {
		return err
	}
	defer closeStdio()
	o.Stdio = stdio
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	_, err = sandbox.Restore(ctx, o)
	return err
}

// restoreAttached stays with the container, as run does.
func (f *containerRestoreFlags) restoreAttached(ctx context.Context, g *globals, o sandbox.RestoreOptions) error {
	a, err := newAttachment(g.Log, o.Spec.Process.Terminal)
	if err != nil {
		return err
	}
	o.Stdio = a.stdio
	s, err := sandbox.Restore(ctx, o)
	if err != nil {
		a.abandon()
		return err
	}
	if err = a.connect(s.Init()); err != nil {
		err = errors.Join(err, s.Signal(unix.SIGKILL))
	}
	code, werr := a.wait(s.Init())
	if err = errors.Join(err, werr, s.Delete(ctx, true)); err != nil {
		return err
	}
	return exitCode(code)
}
