package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newRestoreCommand(g *globals) *cobra.Command {
	var app appFlag
	var to string
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "restore [flags] --app APP ID",
		Short: "Put an app's instance back to a checkpoint",
		Long: "Restore puts an app's instance back to a checkpoint; the app's open connections that the checkpoint knows go on\n" +
			"in that state. --to takes an id or the beginning of one, a tag, or base, and then ^ (its parent) or ~N.",
		Example: "  corsa restore --app 2001 --to good redis\n" +
			"  corsa restore --app 2001 --to HEAD^ redis\n" +
			"  corsa restore --app 2001 --to base redis",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withService(cmd, args[0], func(c *service.Client) error {
				v, err := c.Restore(cmd.Context(), app.app, to)
				if err != nil {
					return err
				}
				if format.json() {
					return printJSON(cmd.OutOrStdout(), v)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), v.To)
				return err
			})
		},
	}
	addAppFlag(cmd, &app)
	cmd.Flags().StringVar(&to, "to", "", "what to restore (default: the state that a crash would bring back)")
	addFormatFlags(cmd, &format)
	return cmd
}
