package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// doubleDashes spells long flags with two dashes that have one: runc takes both, and containerd's shim says
// `restore -no-subreaper`. Only flags before the first argument of a verb are looked at; what follows may be a program's. An
// argument that is no long flag with one dash stays what it is.
func doubleDashes(root *cobra.Command, args []string) []string {
	args = slices.Clone(args)
	cmd := root
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		a := args[i]
		if !strings.HasPrefix(a, "-") || a == "-" {
			verb := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == a || c.HasAlias(a) })
			if verb < 0 {
				break
			}
			cmd = cmd.Commands()[verb]
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
		flag := lookupFlag(cmd, name)
		switch {
		case flag == nil || len(name) == 1:
			hasValue = !endsWithFlag(cmd, a)
		case !strings.HasPrefix(a, "--"):
			args[i] = "-" + a
			fallthrough
		default:
			hasValue = hasValue || flag.NoOptDefVal != ""
		}
		if !hasValue {
			i++
		}
	}
	return args
}

func lookupFlag(cmd *cobra.Command, name string) *pflag.Flag {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f
	}
	return cmd.Root().PersistentFlags().Lookup(name)
}

// endsWithFlag reports whether the last letter of a group of short flags is a flag whose value is the next argument.
func endsWithFlag(cmd *cobra.Command, group string) bool {
	letters := strings.TrimPrefix(group, "-")
	for i := range len(letters) {
		f := cmd.Flags().ShorthandLookup(letters[i : i+1])
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return i == len(letters)-1
		}
	}
	return false
}
