package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

// eventsFlags are of two kinds that do not mix: those about a service's apps, and those about a container's cgroup.
type eventsFlags struct {
	format   outputFormat
	since    uint64
	stats    bool
	interval time.Duration
}

func newEventsCommand(g *globals) *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use:   "events [flags] ID",
		Short: "Show what happens to a service's apps, or what a container uses",
		Long: "Events of a service are what happens to its apps: the newest events of its monitor and then those to come, until\n" +
			"events is interrupted or the service ends. With --json each is a JSON object on a line of its own.\n\n" +
			"Events of any other container are, as JSON, what its cgroup has counted, every --interval, and each time that its memory\n" +
			"runs out. --stats prints what it has counted once. --stats or --interval show these of a service, too.",
		Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			counts := f.stats || cmd.Flags().Changed("interval")
			switch {
			case counts && cmd.Flags().Changed("since"):
				return usagef("--since is about a service's apps, --stats and --interval about a cgroup; use one or the other")
			case counts && cmd.Flags().Changed("format") && !f.format.json():
				return usagef("--format %s: what a cgroup has counted is JSON only", f.format)
			case f.interval <= 0:
				return usagef("--interval %s: must be more than 0", f.interval)
			}
			ref, err := g.ref(args[0])
			if err != nil {
				return err
			}
			if !counts && service.Virtualised(ref) {
				return g.followService(cmd, args[0], &f)
			}
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			if f.stats {
				return printStats(cmd, s)
			}
			if !counts && (cmd.Flags().Changed("since") || cmd.Flags().Changed("format")) {
				return g.followService(cmd, args[0], &f) // which says that this is no service
			}
			return g.followCgroup(cmd, s, f.interval)
		},
	}
	addFormatFlags(cmd, &f.format)
	cmd.Flags().Uint64Var(&f.since, "since", 0, "of a service: only events with a number above this one")
	cmd.Flags().BoolVar(&f.stats, "stats", false, "print what the container's cgroup has counted, as JSON, and exit")
	cmd.Flags().DurationVar(&f.interval, "interval", 5*time.Second, "print that every so often")
	return cmd
}

// followService prints what happens to a service's apps.
func (g *globals) followService(cmd *cobra.Command, id string, f *eventsFlags) error {
	out := cmd.OutOrStdout()
	return g.withService(cmd, id, func(c *service.Client) error {
		return c.Events(cmd.Context(), f.since, func(e service.Event) error {
			if f.format.json() {
				return printJSON(out, e)
			}
			line := []string{e.Time.Format(time.RFC3339Nano), e.Type}
			for _, s := range []string{string(e.App), e.Checkpoint, e.Detail} {
				if s != "" {
					line = append(line, s)
				}
			}
			_, err := fmt.Fprintln(out, strings.Join(line, "  "))
			return err
		})
	})
}
