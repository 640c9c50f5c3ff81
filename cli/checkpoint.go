package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newCheckpointCommand(g *globals) *cobra.Command {
	var app appFlag
	var tag string
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "checkpoint [flags] --app APP ID",
		Short: "Take a checkpoint of an app's instance at its next transaction boundary",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withService(cmd, args[0], func(c *service.Client) error {
				v, err := c.Checkpoint(cmd.Context(), app.app, tag)
				if err != nil {
					return err
				}
				if format.json() {
					return printJSON(cmd.OutOrStdout(), v)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), v.ID)
				return err
			})
		},
	}
	addAppFlag(cmd, &app)
	cmd.Flags().StringVar(&tag, "tag", "", "name it; an older checkpoint of the app loses the same tag")
	addFormatFlags(cmd, &format)
	return cmd
}
