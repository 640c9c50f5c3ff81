package cli

import (
	"errors"
	"time"

	"github.com/opencontainers/runc/types"
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

// printStats prints runc's event of type stats.
func printStats(cmd *cobra.Command, s *sandbox.Sandbox) error {
	stats, err := s.Stats()
	if err != nil {
		return err
	}
	return printJSON(cmd.OutOrStdout(), types.Event{Type: "stats", ID: s.ID(), Data: stats})
}

// followCgroup prints runc's events, stats and oom, until the container is stopped or its cgroup removed.
func (g *globals) followCgroup(cmd *cobra.Command, s *sandbox.Sandbox, interval time.Duration) error {
	// Before anything is watched: this says it if the container is stopped.
	if _, err := s.Stats(); err != nil {
		return err
	}
	oom, err := s.OutOfMemory()
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok {
				return nil
			}
			if err := printJSON(cmd.OutOrStdout(), types.Event{Type: "oom", ID: s.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			err := printStats(cmd, s)
			if errors.Is(err, sandbox.ErrWrongState) {
				return nil
			}
			if err != nil {
				g.Log.Error(err) // it may work the next time, as when a cgroup is being removed
			}
		case <-cmd.Context().Done():
			return nil
		}
	}
}
