package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// kinds are the flags of a verb that is about an app's instance if --app is given, and about a container otherwise.
type kinds struct {
	ofInstance, ofContainer map[string]bool
}

// instance notes the flags that add adds.
func (k *kinds) instance(cmd *cobra.Command, add func()) { k.ofInstance = added(cmd, add) }

// container notes the flags that add adds.
func (k *kinds) container(cmd *cobra.Command, add func()) { k.ofContainer = added(cmd, add) }

func added(cmd *cobra.Command, add func()) map[string]bool {
	names := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names[f.Name] = false })
	add()
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, before := names[f.Name]; !before {
			names[f.Name] = true
		}
	})
	return names
}

// check refuses flags of the kind that the command line is not about.
func (k *kinds) check(cmd *cobra.Command) (err error) {
	app := cmd.Flags().Changed("app")
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case err != nil:
		case app && k.ofContainer[f.Name]:
			err = usagef("--%s is about a whole container, --app about one instance of a service; give one of them", f.Name)
		case !app && k.ofInstance[f.Name]:
			err = usagef("--%s is about an app's instance: --app is missing; whose? `corsa apps ID` lists the apps", f.Name)
		}
	})
	return err
}
