package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newAppsCommand(g *globals) *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "apps [flags] ID",
		Short: "List the apps of a service and their instances",
		Args:  takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withService(cmd, args[0], func(c *service.Client) error {
				apps, err := c.Apps(cmd.Context())
				if err != nil {
					return err
				}
				if format.json() {
					return printJSON(cmd.OutOrStdout(), apps)
				}
				var rows [][]string
				for _, a := range apps {
					memory, spare := "-", "-"
					if a.Spare {
						spare = "yes"
					}
					if a.Memory != nil {
						memory = formatBytes(a.Memory.Unique)
					}
					transactions := "-" // nobody has seen them
					if !a.Untracked {
						transactions = strconv.FormatUint(a.Transactions, 10)
					}
					rows = append(rows, []string{
						string(a.App), a.State, transactions, strconv.Itoa(a.Checkpoints), a.Head,
						memory, strconv.FormatUint(a.Crashes, 10), strconv.Itoa(a.Connections), a.Path, spare,
					})
				}
				return printTable(cmd.OutOrStdout(),
					[]string{"APP", "STATE", "TRANSACTIONS", "CHECKPOINTS", "HEAD", "MEMORY", "CRASHES", "CONNECTIONS", "PATH", "SPARE"}, rows)
			})
		},
	}
	addFormatFlags(cmd, &format)
	return cmd
}

// formatBytes writes a size with three digits at most.
func formatBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1000 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	digits := 0
	if v < 10 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + units[unit:unit+1]
}
