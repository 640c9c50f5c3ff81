package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newBinderStatsCommand(g *globals) *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "stats [flags] ID",
		Short: "Print what the Binder gate of a service has counted since its adoption",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withService(cmd, args[0], func(c *service.Client) error {
				s, err := c.Binder(cmd.Context())
				if err != nil {
					return err
				}
				if format.json() {
					return printJSON(cmd.OutOrStdout(), s)
				}
				count := func(n uint64) string { return strconv.FormatUint(n, 10) }
				return printTable(cmd.OutOrStdout(), []string{"COUNTER", "VALUE", "WHAT"}, [][]string{
					{"transactions", count(s.Transactions), "calls from outside"},
					{"oneway", count(s.Oneway), "of them without an answer"},
					{"in progress", strconv.Itoa(s.InProgress), "now"},
					{"waiting", strconv.Itoa(s.Waiting), "now"},
					{"switches", count(s.Switches), "calls for which another instance was made active"},
					{"waits", count(s.Waits), "calls that did not go on at once"},
					{"waited", fmt.Sprint(s.Waited), "by all of these; the longest: " + s.LongestWait.String()},
					{"timeouts", count(s.Timeouts), "calls that failed since they waited too long"},
					{"interrupted", count(s.Interrupted), "calls whose callers were killed while they waited"},
					{"aborted", count(s.Aborted), "calls whose instance crashed"},
					{"nested", count(s.Nested), "calls back into the service, within calls that it had made"},
					{"outgoing", count(s.Outgoing), "calls that the service has made"},
				})
			})
		},
	}
	addFormatFlags(cmd, &format)
	return cmd
}
