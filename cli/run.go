package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

func newRunCommand(g *globals) *cobra.Command {
	var f createFlags
	var detach, keep bool
	cmd := &cobra.Command{
		Use:   "run [flags] ID",
		Short: "Create a container, execute its program and delete it when that has ended",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(g, args[0])
			if err != nil {
				return err
			}
			if detach {
				return runDetached(cmd.Context(), g, o, f.consoleSocket)
			}
			if f.consoleSocket != "" {
				return usagef("--console-socket is of use with --detach only")
			}
			return runAttached(cmd.Context(), g, o, keep)
		},
	}
	f.add(cmd)
	f.addPidfd(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "return once the program has been started")
	cmd.Flags().Bool("no-subreaper", true, "for callers written for runc: corsa is never a subreaper")
	cmd.Flags().BoolVar(&keep, "keep", false, "do not delete the container at the end")
	return cmd
}

func runDetached(ctx context.Context, g *globals, o sandbox.Options, consoleSocket string) error {
	s, err := createDetached(ctx, o, consoleSocket)
	if err != nil {
		return err
	}
	err = g.start(ctx, s)
	if err == nil {
		return nil
	}
	ref, rerr := g.ref(s.ID())
	if rerr != nil {
		return errors.Join(err, rerr, s.Delete(ctx, true))
	}
	return errors.Join(err, service.Delete(ctx, ref, true))
}

func runAttached(ctx context.Context, g *globals, o sandbox.Options, keep bool) error {
	a, err := newAttachment(g.Log, o.Spec.Process.Terminal)
	if err != nil {
		return err
	}
	o.Stdio = a.stdio
	s, err := sandbox.Create(ctx, o)
	if err != nil {
		a.abandon()
		return err
	}
	if err = a.connect(s.Init()); err == nil {
		err = g.start(ctx, s)
	}
	if err != nil {
		if kerr := s.Signal(unix.SIGKILL); !errors.Is(kerr, sandbox.ErrWrongState) {
			err = errors.Join(err, kerr)
		}
	}
	ref, rerr := g.ref(s.ID())
	if err = errors.Join(err, rerr); err == nil && service.Virtualised(ref) {
		a.deliver = func(sig unix.Signal) error { return service.Kill(ctx, ref, sig) }
	}
	code, werr := a.wait(s.Init())
	if err = errors.Join(err, werr); err != nil || !keep {
		err = errors.Join(err, service.Delete(ctx, ref, true))
	}
	if err != nil {
		return err
	}
	return exitCode(code)
}
