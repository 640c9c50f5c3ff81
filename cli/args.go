package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// takes checks a verb's arguments, which are named as in its usage: one in brackets may be left out, and a last one that
// ends in an ellipsis stands for any number.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) && !strings.HasPrefix(names[len(args)], "[") {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		repeats := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "…]")
		if len(args) > len(names) && !repeats {
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
