package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/measure"
)

func newMeasureStartupCommand() *cobra.Command {
	var format outputFormat
	var o measure.StartupOptions
	cmd := &cobra.Command{
		Use:   "startup [flags]",
		Short: "Measure what it takes to run a container, against runc and crun",
		Long: "A container of busybox runs /bin/true, with corsa and with those of runc and crun that are installed, in turns. It takes\n" +
			"some seconds, needs busybox (static), and removes everything that it made.",
		Args: takes(),
		PreRunE: func(*cobra.Command, []string) error {
			if o.Rounds < 1 {
				return fmt.Errorf("--rounds %d: must be at least 1", o.Rounds)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMeasurement(cmd, format, printMeasured, func(ctx context.Context, corsa string, progress func(string)) (*measure.Report, error) {
				o.Corsa, o.Progress = corsa, progress
				return measure.RunStartup(ctx, o)
			})
		},
	}
	cmd.Flags().IntVar(&o.Rounds, "rounds", 20, "how often each runtime runs")
	addFormatFlags(cmd, &format)
	return cmd
}
