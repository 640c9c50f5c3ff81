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
	var container containerCheckpointFlags
	var of kinds
	cmd := &cobra.Command{
		Use:   "checkpoint [flags] ID",
		Short: "Take a checkpoint of an app's instance, or dump a container into an image",
		Long: "With --app it is the instance of one app of a service that is captured, at its next transaction boundary, in memory.\n" +
			"Without it the whole container is dumped by CRIU into files and ends, unless told to go on; see `corsa restore`.\n" +
			"The container goes on after any failure.",
		Example: "  corsa checkpoint --app 2001 --tag good redis\n" +
			"  corsa checkpoint --image-path /var/tmp/web.img --tcp-established web",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := of.check(cmd); err != nil {
				return err
			}
			if app.app == "" {
				return container.checkpoint(cmd, g, args[0])
			}
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
	of.instance(cmd, func() {
		cmd.Flags().StringVar(&tag, "tag", "", "with --app: name it; an older checkpoint of the app loses the same tag")
		addFormatFlags(cmd, &format)
	})
	of.container(cmd, func() { container.add(cmd) })
	cmd.Flags().Var(&app, "app", appUsage+" whose instance it is")
	return cmd
}
