package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

func newStateCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "state ID",
		Short: "Print the state of a container as JSON",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			st, err := s.State()
			if err != nil {
				return err
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(st)
		},
	}
}
