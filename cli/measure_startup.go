package cli

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
			var err error
			if o.Corsa, err = os.Executable(); err != nil {
				return err
			}
			o.Progress = func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), step) }
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			report, err := measure.RunStartup(ctx, o)
			if err != nil {
				return err
			}
			if format.json() {
				return printJSON(cmd.OutOrStdout(), report)
			}
			return printMeasured(cmd.OutOrStdout(), report)
		},
	}
	cmd.Flags().IntVar(&o.Rounds, "rounds", 20, "how often each runtime runs")
	addFormatFlags(cmd, &format)
	return cmd
}
