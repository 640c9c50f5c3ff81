package cli

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

func newPsCommand(g *globals) *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "ps [flags] ID [PS-OPTION…]",
		Short: "List the processes of a container",
		Long:  "List the processes of a container: the lines of ps(1) that are about them, or with --json their host pids.",
		Args:  takes("ID", "[PS-OPTION…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			pids, err := s.Processes()
			if err != nil {
				return err
			}
			if format.json() {
				if pids == nil {
					pids = []int{}
				}
				return printJSON(cmd.OutOrStdout(), pids)
			}
			options := args[1:]
			if len(options) == 0 {
				options = []string{"-ef"}
			}
			return filterPs(cmd.OutOrStdout(), options, pids)
		},
	}
	addFormatFlags(cmd, &format)
	cmd.Flags().SetInterspersed(false) // what follows the id is for ps
	return cmd
}

// filterPs runs ps and prints its title and the lines of the processes pids.
func filterPs(w io.Writer, options []string, pids []int) error {
	out, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps %s: %w: %s", strings.Join(options, " "), err, bytes.TrimSpace(out))
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s: its output has no column PID; use options that show it, or --json", strings.Join(options, " "))
	}
	for i, line := range lines {
		fields := strings.Fields(line)
		if i > 0 {
			if len(fields) <= column {
				continue
			}
			pid, err := strconv.Atoi(fields[column])
			if err != nil || !slices.Contains(pids, pid) {
				continue
			}
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
