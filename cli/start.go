package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

func newStartCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "start ID",
		Short: "Execute the program of a created container",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			return g.start(cmd.Context(), s)
		},
	}
}

// start executes the program of s. If the bundle declares a service it is virtualised, too; if that fails nothing runs
// any more.
func (g *globals) start(ctx context.Context, s *sandbox.Sandbox) error {
	svc, err := service.Declared(s.Annotations())
	if err != nil {
		return err
	}
	if svc != nil {
		if err := service.CheckEndpoints(service.Outside(s, svc)); err != nil {
			return err
		}
	}
	if svc == nil {
		return s.Start()
	}
	ref, err := g.ref(s.ID())
	if err != nil {
		return err
	}
	status, err := s.Status()
	if err != nil {
		return err
	}
	if status != sandbox.Created {
		return s.Start() // which says why not
	}
	if err := service.Prepare(ctx, ref, s, svc); err != nil {
		return err
	}
	if err = service.StartAndLaunch(ctx, ref, s, svc, nil); err != nil {
		if kerr := s.Signal(unix.SIGKILL); !errors.Is(kerr, sandbox.ErrWrongState) {
			err = errors.Join(err, kerr)
		}
	}
	return err
}
