package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corsa.dev/corsa/spec"
)

func newSpecCommand(*globals) *cobra.Command {
	var bundle string
	var rootless, forService bool
	var f serviceFlags
	cmd := &cobra.Command{
		Use:   "spec [flags] [--service … -- PROGRAM [ARG…]]",
		Short: "Write a config.json to start from",
		Long: "Spec writes the config.json of an ordinary container. With --service it writes a bundle that runs a program of the\n" +
			"host as a service, with the same flags and the same meaning as serve; `corsa run` serves it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if forService {
				return writeServiceBundle(&f, bundle, args)
			}
			if err := onlyForService(cmd, args); err != nil {
				return err
			}
			config := specconv.Example()
			if rootless {
				specconv.ToRootless(config)
			}
			return writeSpec(bundle, config)
		},
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "bundle directory to write it in")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "for a container that is not run by root")
	cmd.Flags().BoolVar(&forService, "service", false, "write the bundle of a service; needs a program")
	cmd.Flags().SetInterspersed(false)
	f.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("rootless", "service")
	return cmd
}

// writeServiceBundle writes config.json and the skeleton of a root file system.
func writeServiceBundle(f *serviceFlags, bundle string, args []string) error {
	if len(args) == 0 {
		return usagef("--service needs a program: spec --service … -- PROGRAM [ARG…]")
	}
	o, err := f.options(args)
	if err != nil {
		return err
	}
	return spec.WriteBundle(bundle, o)
}

// onlyForService refuses what has no meaning without --service.
func onlyForService(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q; a program needs --service", args[0])
	}
	var stray error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "bundle" && f.Name != "rootless" {
			stray = usagef("--%s needs --service", f.Name)
		}
	})
	return stray
}

// writeSpec writes config as the config.json of bundle. It never overwrites one.
func writeSpec(bundle string, config any) error {
	data, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return fmt.Errorf("encode config.json: %w", err)
	}
	path := filepath.Join(bundle, "config.json")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists; remove it first", path)
	}
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	return f.Close()
}
