package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

func newListCommand(g *globals) *cobra.Command {
	var format outputFormat
	var quiet bool
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the containers under the state root",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := sandbox.List(g.Root)
			out := cmd.OutOrStdout()
			if quiet {
				for _, st := range list {
					if _, perr := fmt.Fprintln(out, st.ID); perr != nil {
						return perr
					}
				}
				return err
			}
			if format.json() {
				if list == nil {
					list = []sandbox.State{}
				}
				if perr := printJSON(out, list); perr != nil {
					return perr
				}
				return err
			}
			var rows [][]string
			for _, st := range list {
				rows = append(rows, []string{
					st.ID, strconv.Itoa(st.PID), string(st.Status), st.Bundle, st.Created.Format(time.RFC3339Nano), st.Owner,
				})
			}
			if perr := printTable(out, []string{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}, rows); perr != nil {
				return perr
			}
			return err
		},
	}
	addFormatFlags(cmd, &format)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	return cmd
}
