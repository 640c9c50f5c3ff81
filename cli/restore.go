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
	var container containerRestoreFlags
	var of kinds
	cmd := &cobra.Command{
		Use:   "restore [flags] ID",
		Short: "Put an app's instance back to a checkpoint, or make a container from an image",
		Long: "With --app it is the instance of one app of a service that is put back to a checkpoint; the app's open connections\n" +
			"that the checkpoint knows go on in that state. --to takes an id or the beginning of one, a tag, or base, and then ^\n" +
			"(its parent) or ~N. Without --app a container is made from an image that `corsa checkpoint`, or runc's, has written.\n" +
			"One image can be restored any number of times under different ids, also at the same time, if each has a bundle with\n" +
			"a root of its own, or one that is read-only. After a failure nothing is left.",
		Example: "  corsa restore --app 2001 --to good redis\n" +
			"  corsa restore --app 2001 --to HEAD^ redis\n" +
			"  corsa restore --app 2001 --to base redis\n" +
			"  corsa restore --image-path /var/tmp/web.img --bundle web2 --tcp-established --detach web2",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := of.check(cmd); err != nil {
				return err
			}
			if app.app == "" {
				return container.restore(cmd, g, args[0])
			}
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
	of.instance(cmd, func() {
		cmd.Flags().StringVar(&to, "to", "", "with --app: what to restore (default: the state that a crash would bring back)")
		addFormatFlags(cmd, &format)
	})
	of.container(cmd, func() { container.add(cmd) })
	cmd.Flags().Var(&app, "app", appUsage+" whose instance it is")
	return cmd
}
