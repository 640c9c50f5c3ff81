package cli

import (
	"time"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newLogCommand(g *globals) *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "log [flags] ID APP",
		Short: "Show the checkpoints of an app as a tree",
		Args:  takes("ID", "APP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			app, err := parseApp(args[1])
			if err != nil {
				return err
			}
			return g.withService(cmd, args[0], func(c *service.Client) error {
				h, err := c.Log(cmd.Context(), app)
				if err != nil {
					return err
				}
				if format.json() {
					return printJSON(cmd.OutOrStdout(), h)
				}
				return h.Print(cmd.OutOrStdout(), time.Now())
			})
		},
	}
	addFormatFlags(cmd, &format)
	return cmd
}
