// Command corsa-binderfs-hook gives a container of runc, crun, podman or LXC a Binder file system of its own. Container
// runtimes run it; see the page hooks.md of the documentation.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/hooks"
)

type usageError struct{ error }

func init() {
	// Threads that enter a container's namespaces must not be the first one, which stands for the process in /proc.
	runtime.LockOSThread()
}

func main() {
	err := command().Execute()
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "corsa-binderfs-hook:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "corsa-binderfs-hook:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "corsa-binderfs-hook", Short: "Hooks of container runtimes that provide Binder", SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name the kind of hook: oci or lxc; see corsa-binderfs-hook --help")}
			}
			return usageError{fmt.Errorf("unknown command %q: see corsa-binderfs-hook --help", args[0])}
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use:   "oci",
			Short: "OCI hook for the stages createRuntime and poststop",
			Long: "OCI hook for the stages createRuntime and poststop. It reads the container's state from standard input, and its wishes\n" +
				"from the annotations " + hooks.AnnotationDevices + " and " + hooks.AnnotationPublish + ".",
			Args: func(_ *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Errorf("unexpected argument %q", args[0])}
				}
				return nil
			},
			RunE: func(*cobra.Command, []string) error { return hooks.OCI(os.Stdin) },
		},
		&cobra.Command{
			Use:   "lxc DEVICES [NAME lxc TYPE]",
			Short: "LXC hook for autodev (or mount) and start-host",
			Long: "LXC hook for autodev (or mount) and start-host. DEVICES are names separated by commas. LXC appends the rest,\n" +
				"or has it in the environment.",
			Args: func(_ *cobra.Command, args []string) error {
				if len(args) == 0 {
					return usageError{errors.New("name the devices: corsa-binderfs-hook lxc binder,hwbinder,vndbinder")}
				}
				return nil
			},
			RunE: func(_ *cobra.Command, args []string) error { return hooks.LXC(args[0], args[1:]) },
		},
	)
	return root
}
