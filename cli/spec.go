package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/spf13/cobra"
)

func newSpecCommand(*globals) *cobra.Command {
	var bundle string
	var rootless bool
	cmd := &cobra.Command{
		Use:   "spec [flags]",
		Short: "Write a config.json to start from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			spec := specconv.Example()
			if rootless {
				specconv.ToRootless(spec)
			}
			return writeSpec(bundle, spec)
		},
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "bundle directory to write it in")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "for a container that is not run by root")
	return cmd
}

// writeSpec writes spec as the config.json of bundle. It never overwrites one.
func writeSpec(bundle string, spec any) error {
	data, err := json.MarshalIndent(spec, "", "\t")
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
