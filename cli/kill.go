package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

func newKillCommand(g *globals) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "kill [flags] ID [SIGNAL]",
		Short: "Send a signal (default SIGTERM) to a container",
		Args:  takes("ID", "[SIGNAL]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig := unix.SIGTERM
			if len(args) == 2 {
				var err error
				if sig, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			ref, err := g.ref(args[0])
			if err != nil {
				return err
			}
			if service.Virtualised(ref) {
				return service.Kill(cmd.Context(), ref, sig)
			}
			err = s.Signal(sig)
			if all && errors.Is(err, sandbox.ErrWrongState) {
				return nil
			}
			return err
		},
	}
	// Kept for callers written for old versions of runc.
	cmd.Flags().BoolVarP(&all, "all", "a", false, "a stopped container is no error")
	return cmd
}

// parseSignal takes a number or a name with or without SIG, in any case.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, usagef("signal %d: must be between 0 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, usagef("unknown signal %q: use a name such as TERM, or a number", s)
}
