package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/measure"
)

func newMeasureCheckpointCommand(g *globals) *cobra.Command {
	var format outputFormat
	var o measure.ImageOptions
	cmd := &cobra.Command{
		Use:   "checkpoint [flags]",
		Short: "Measure checkpoint and restore of whole containers, against runc",
		Long: "Containers with 1 and with 64 MiB of memory are dumped and restored, with corsa and, if it is installed, runc in turns, by the\n" +
			"same CRIU. It takes about half a minute, needs busybox (static), and removes everything that it made.",
		Args: takes(),
		PreRunE: func(*cobra.Command, []string) error {
			if o.Rounds < 1 {
				return fmt.Errorf("--rounds %d: must be at least 1", o.Rounds)
			}
			for _, n := range o.MiB {
				if n < 1 {
					return fmt.Errorf("--mib %d: must be at least 1", n)
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMeasurement(cmd, format, printMeasured, func(ctx context.Context, corsa string, progress func(string)) (*measure.Report, error) {
				o.Corsa, o.Progress = corsa, progress
				o.CRIU = g.CRIU
				return measure.RunImages(ctx, o)
			})
		},
	}
	cmd.Flags().IntVar(&o.Rounds, "rounds", 10, "how often each runtime dumps and restores")
	cmd.Flags().IntSliceVar(&o.MiB, "mib", []int{1, 64}, "memory of the containers, in MiB; may be repeated")
	addFormatFlags(cmd, &format)
	return cmd
}
