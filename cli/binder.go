package cli

import (
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/service"
)

func newBinderCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "binder COMMAND",
		Short: "Look at what apps say to a Binder service",
		RunE: func(*cobra.Command, []string) error {
			return usagef("no command given; `corsa help binder` lists them")
		},
	}
	cmd.AddCommand(newBinderManagerCommand(g))
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
