package cli

import (
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

func newStartCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "start ID",
		Short: "Execute the program of a created container",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			return s.Start()
		},
	}
}
