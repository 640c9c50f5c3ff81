package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corsa.dev/corsa/spec"
)

// Groups of verbs in the help.
const (
	groupService   = "service"
	groupContainer = "container"
	groupHost      = "host"
)

// addGroups titles them, in order.
func addGroups(root *cobra.Command) {
	root.AddGroup(
		&cobra.Group{ID: groupService, Title: "Services and their apps:"},
		&cobra.Group{ID: groupContainer, Title: "Containers, as in runc:"},
		&cobra.Group{ID: groupHost, Title: "This host and this program:"},
	)
	root.SetHelpCommandGroupID(groupHost)
	root.SetCompletionCommandGroupID(groupHost)
}

// usageTemplate is cobra's without what verbs do not have.
const usageTemplate = `Usage:
  {{.UseLine}}{{if .HasExample}}

Example:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}{{$all := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $all}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if not .Groups}}

Verbs:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of all verbs:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

` + "`corsa help VERB` tells more of a verb." + `{{end}}
`

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "help [VERB]",
		Short:                 "Print the help of a verb",
		Args:                  takes("[VERB]"),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic := cmd.Root()
			for _, c := range topic.Commands() {
				if len(args) > 0 && c.Name() == args[0] {
					topic = c
				}
			}
			if len(args) > 0 && !topic.HasParent() {
				return &usageError{unknownVerb(topic, args[0])}
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

func unknownVerb(root *cobra.Command, name string) error {
	if similar := root.SuggestionsFor(name); len(similar) > 0 {
		return fmt.Errorf("unknown verb %q; did you mean %s?", name, strings.Join(similar, " or "))
	}
	return fmt.Errorf("unknown verb %q; `corsa help` lists them", name)
}

// flagError says what is wrong with a flag's value without naming what parsed it.
func flagError(_ *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return err
	}
	cause := value.Unwrap()
	var number *strconv.NumError
	if errors.As(cause, &number) {
		cause = errors.New("must be a number")
		if errors.Is(number, strconv.ErrRange) {
			cause = errors.New("the number is too large")
		}
	}
	return fmt.Errorf("--%s %q: %w", value.GetFlag().Name, value.GetValue(), cause)
}

// declaredByFlag is an error about annotations that were given as flags of the same names.
type declaredByFlag struct{ err error }

func (e *declaredByFlag) Error() string {
	return strings.NewReplacer(spec.BinderPrefix, "--binder-", spec.Prefix, "--").Replace(e.err.Error())
}
func (e *declaredByFlag) Unwrap() error { return e.err }
