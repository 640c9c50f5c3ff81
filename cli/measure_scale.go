package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/measure"
)

// leastInstances is the smallest number of apps from which a trend can be told.
const leastInstances = 20

func newMeasureScaleCommand() *cobra.Command {
	var format outputFormat
	o := measure.ScaleOptions{}
	cmd := &cobra.Command{
		Use:   "scale [flags]",
		Short: "Measure what many apps of one service cost",
		Long: "Scale serves a redis to so many apps, each of which gets an instance, and measures how long each takes to make, how much memory it\n" +
			"holds while it is parked, how many requests a second there can be if each is another app's, and how long listings take,\n" +
			"against the same with ten apps. It needs redis-server and removes everything that it made.",
		Args: takes(),
		PreRunE: func(*cobra.Command, []string) error {
			if o.Instances < leastInstances {
				return fmt.Errorf("--instances %d: must be at least %d", o.Instances, leastInstances)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMeasurement(cmd, format, printMeasured, func(ctx context.Context, corsa string, progress func(string)) (*measure.Report, error) {
				o.Corsa, o.Progress = corsa, progress
				return measure.RunScale(ctx, o)
			})
		},
	}
	cmd.Flags().IntVar(&o.Instances, "instances", 1000, "how many apps, each with an instance")
	cmd.Flags().BoolVar(&o.Pinned, "pinned", true, "measure once more with everything on one CPU")
	addFormatFlags(cmd, &format)
	return cmd
}
