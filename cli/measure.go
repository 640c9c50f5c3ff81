package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/measure"
	"corsa.dev/corsa/spec"
)

func newMeasureCommand(g *globals) *cobra.Command {
	var format outputFormat
	var o measure.Options
	var services []string
	var gate string
	cmd := &cobra.Command{
		Use:   "measure [flags]",
		Short: "Measure what private instances cost on this machine",
		Long: "Measure starts services of several sizes, has them adopted and measures a change of app, a checkpoint, a restore\n" +
			"and a redis behind `corsa serve`, each against what it can be compared with in the same run. A run takes about four\n" +
			"minutes, needs python3 and redis-server, and removes everything that it made. A process of the same program is dumped and\n" +
			"restored by CRIU beside that, if there is one.\n\n" +
			"With --gate binder it measures calls through Binder instead: direct, through the gate in the kernel (engine kmod), which\n" +
			"needs corsa.ko with its Binder gate, and through the broker (engine fork), and how many apps' calls a second there can be.\n" +
			"That takes one to two minutes, in an emulated machine five or more, and needs binderfs.",
		Args: takes(),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("apps") && o.Apps < 2 {
				return fmt.Errorf("--apps %d: must be at least 2", o.Apps)
			}
			if gate != spec.GateSocket && gate != spec.GateBinder {
				return fmt.Errorf("--gate %q: write %s or %s", gate, spec.GateSocket, spec.GateBinder)
			}
			if gate == spec.GateBinder && cmd.Flags().Changed("service") {
				return errors.New("--service has no meaning with --gate binder, which has a service of its own")
			}
			for _, name := range o.Engines {
				if name != "fork" && name != "kmod" {
					return fmt.Errorf("--engine: there is no engine %q: write fork or kmod", name)
				}
			}
			for _, s := range services {
				name, err := measure.ParseService(s)
				if err != nil {
					return fmt.Errorf("--service: %w", err)
				}
				o.Services = append(o.Services, name)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			measured, printTo := measure.Run, printMeasured
			switch {
			case gate == spec.GateBinder:
				measured = measure.RunBinder
			case o.Quick:
				printTo = printQuick
			}
			return runMeasurement(cmd, format, printTo, func(ctx context.Context, corsa string, progress func(string)) (*measure.Report, error) {
				o.Corsa, o.CRIU, o.Progress = corsa, g.CRIU, progress
				return measured(ctx, o)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&services, "service", nil, "what to measure: redis, threads, a size in MiB, huge=MIB, threads=N or vmas=N; may be repeated (default: all)")
	fl.StringSliceVar(&o.Engines, "engine", nil, "fork or kmod; may be repeated (default: all that this host has, side by side)")
	fl.StringVar(&gate, "gate", spec.GateSocket, "how clients call: socket or binder")
	fl.IntVar(&o.Apps, "apps", 0, "most apps at once (default: 1000, with --gate binder 128, with --quick 16)")
	fl.BoolVar(&o.Quick, "quick", false, "measure fewer services, for some seconds")
	addFormatFlags(cmd, &format)
	cmd.AddCommand(newMeasureStartupCommand())
	cmd.AddCommand(newMeasureScaleCommand())
	cmd.AddCommand(newMeasureCheckpointCommand(g))
	return cmd
}
