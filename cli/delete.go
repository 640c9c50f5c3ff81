package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

func newDeleteCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete [flags] ID",
		Short: "Remove a container: processes, cgroup and state",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := g.ref(args[0])
			if err != nil {
				return err
			}
			err = service.Delete(cmd.Context(), ref, force)
			if force && errors.Is(err, sandbox.ErrDamaged) {
				salvaged, serr := sandbox.Salvage(cmd.Context(), g.Root, args[0])
				if serr != nil || !salvaged {
					return errors.Join(err, serr)
				}
				err = service.Delete(cmd.Context(), ref, force)
			}
			if errors.Is(err, sandbox.ErrNotExist) {
				removed, rerr := sandbox.RemoveLeftover(g.Root, args[0])
				if rerr != nil || removed || force {
					return rerr
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill the container first if it is running; an unknown id is no error")
	return cmd
}
