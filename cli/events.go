package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newEventsCommand(g *globals) *cobra.Command {
	var format outputFormat
	var since uint64
	cmd := &cobra.Command{
		Use:   "events [flags] ID",
		Short: "Show what happens to a service's apps, as it happens",
		Long: "Events shows the newest events of a service's monitor and then those to come, until it is interrupted or the\n" +
			"service ends. With --json each event is a JSON object on a line of its own.",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			return g.withService(cmd, args[0], func(c *service.Client) error {
				return c.Events(cmd.Context(), since, func(e service.Event) error {
					if format.json() {
						return printJSON(out, e)
					}
					line := []string{e.Time.Format(time.RFC3339Nano), e.Type}
					for _, s := range []string{string(e.App), e.Checkpoint, e.Detail} {
						if s != "" {
							line = append(line, s)
						}
					}
					_, err := fmt.Fprintln(out, strings.Join(line, "  "))
					return err
				})
			})
		},
	}
	addFormatFlags(cmd, &format)
	cmd.Flags().Uint64Var(&since, "since", 0, "only events with a number above this one")
	return cmd
}
