package cli

import (
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

func newPauseCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "pause ID",
		Short: "Freeze all processes of a container",
		Args:  takes("ID"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			return s.Pause()
		},
	}
}

func newResumeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "resume ID",
		Short: "Let a paused container run on",
		Args:  takes("ID"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			return s.Resume()
		},
	}
}
