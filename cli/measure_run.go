package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/measure"
)

// runMeasurement calls run, which measures with the program at corsa and tells its progress, and prints the report as format
// says: for people by printTo. An interrupt ends run, which removes what it has made.
func runMeasurement(cmd *cobra.Command, format outputFormat, printTo func(io.Writer, *measure.Report) error,
	run func(ctx context.Context, corsa string, progress func(string)) (*measure.Report, error),
) error {
	corsa, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	report, err := run(ctx, corsa, func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), step) })
	if err != nil {
		return err
	}
	if format.json() {
		return printJSON(cmd.OutOrStdout(), report)
	}
	return printTo(cmd.OutOrStdout(), report)
}
