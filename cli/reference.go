package cli

import "github.com/spf13/cobra"

// Tree returns the command tree for a program that describes it, such as docs/gen. It does not depend on the
// environment, and is not to be executed.
func Tree() *cobra.Command {
	root, _ := newRootCommand(&globals{})
	root.PersistentFlags().Lookup("root").DefValue = "/run/corsa" // not what it is for this user
	return root
}
