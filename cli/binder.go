package cli

import (
	"os/signal"
	"strconv"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/measure"
	"corsa.dev/corsa/runtime/service"
)

func newBinderCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "binder COMMAND",
		Short: "Look at the traffic of Binder services",
		RunE: func(*cobra.Command, []string) error {
			return usagef("no command given: trace or stats")
		},
	}
	cmd.AddCommand(newBinderTraceCommand(g), newBinderStatsCommand(g), newBinderManagerCommand(g), newBinderEchoCommand(), newBinderLoadCommand())
	return cmd
}

// newBinderManagerCommand is not for people: other verbs start it, detached. See package service.
func newBinderManagerCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:    "manager DEVICE PROTOCOL",
		Short:  "Be the service manager of a sandbox; started by other verbs",
		Hidden: true,
		Args:   takes("DEVICE", "PROTOCOL"),
		RunE: func(_ *cobra.Command, args []string) error {
			return service.RunManager(args[0], args[1], logrus.NewEntry(g.Log))
		},
	}
}

// newBinderEchoCommand and newBinderLoadCommand are the service and the clients that `corsa measure --gate binder` starts.
func newBinderEchoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "echo DEVICE [NAME]",
		Short:  "Be the service of a measurement",
		Hidden: true,
		Args:   takes("DEVICE", "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return measure.ServeEcho(ctx, args[0], nth(args, 1))
		},
	}
}

func newBinderLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "load DEVICE UID [NAME]",
		Short:  "Be a client of a measurement",
		Hidden: true,
		Args:   takes("DEVICE", "UID", "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			uid, err := strconv.ParseUint(args[1], 10, 31)
			if err != nil {
				return usagef("%q is no uid", args[1])
			}
			return measure.ServeLoad(args[0], nth(args, 2), int(uid), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// nth is an argument that may have been left out.
func nth(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}
