package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ConfigName is the name of the configuration file in a bundle directory.
const ConfigName = "config.json"

// LoadBundle reads the configuration of the bundle in dir and what it declares about its service; the Service is
// nil if it declares none. A malformed file is an ErrInvalid that says where; a missing one is fs.ErrNotExist.
func LoadBundle(dir string) (*specs.Spec, *Service, error) {
	path := filepath.Join(dir, ConfigName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s is not a bundle: %w; `corsa spec` writes a configuration", dir, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read bundle: %w", err)
	}
	config, err := parseConfig(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	service, declared, err := FromAnnotations(config.Annotations)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: annotations: %w", path, err)
	}
	if !declared {
		return config, nil, nil
	}
	if len(service.Endpoints) > 0 && config.Process == nil {
		return nil, nil, fmt.Errorf("%w: %s: it declares a service and has no process that could be one", ErrInvalid, path)
	}
	return config, service, nil
}

func parseConfig(data []byte) (*specs.Spec, error) {
	var config *specs.Spec
	if err := Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if config == nil {
		return nil, fmt.Errorf("%w: line 1: it is null, not an object", ErrInvalid)
	}
	return config, nil
}

// rootfsName is the root file system of a bundle that WriteBundle makes.
const rootfsName = "rootfs"

// WriteBundle makes the bundle of a host program, see HostBundle, in the existing directory dir: ConfigName and
// the directory "rootfs". It refuses to overwrite either, and on error leaves neither behind.
func WriteBundle(dir string, o HostBundleOptions) (err error) {
	config, skeleton, err := HostBundle(o)
	if err != nil {
		return err
	}
	config.Root.Path = rootfsName
	data, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return fmt.Errorf("encode %s: %w", ConfigName, err)
	}
	path := filepath.Join(dir, ConfigName)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w; remove it first", path, fs.ErrExist)
	}
	root := filepath.Join(dir, rootfsName)
	if err := os.Mkdir(root, 0o755); err != nil {
		return fmt.Errorf("make root file system: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, skeleton.Remove(root), os.Remove(root))
		}
	}()
	if err := skeleton.Create(root); err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'))
}

// writeFile makes path appear with all of its contents or not at all, and never replaces a file.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
