package cli

import (
	"os/signal"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// newMonitorCommand is not for people: other verbs start it, detached. See package service.
func newMonitorCommand(g *globals) *cobra.Command {
	var worker, takeOver, output bool
	cmd := &cobra.Command{
		Use:    "monitor [flags] ID",
		Short:  "Serve a virtualised service; started by other verbs",
		Hidden: true,
		Args:   takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := g.ref(args[0])
			if err != nil {
				return err
			}
			log := logrus.NewEntry(g.Log)
			if !worker {
				return service.Supervise(service.SuperviseOptions{Ref: ref, Recover: takeOver, Output: output, Log: log})
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
			defer stop()
			err = service.Run(ctx, service.RunOptions{Ref: ref, Recover: takeOver, Output: output, Log: log})
			if service.Locked(err) {
				log.Info(err)
				return exitCode(service.ExitLocked)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&worker, "worker", false, "be the monitor, not its supervisor")
	cmd.Flags().BoolVar(&takeOver, "recover", false, "take over what a monitor that died has left")
	cmd.Flags().BoolVar(&output, "output", false, "descriptor 4 is the service's output")
	return cmd
}
