package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// Skeleton is a root file system in which nothing lies but mount points and symbolic links. What the container
// sees comes from the mounts of the configuration that belongs to it.
type Skeleton struct {
	Dirs  []string          // names of mount points directly under the root
	Links map[string]string // name directly under the root -> target, as on the host
}

// Create populates the existing directory root. It is left as it was if that fails.
func (s Skeleton) Create(root string) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make root file system: %w", err), s.Remove(root))
		}
	}()
	for _, name := range s.Dirs {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for name, target := range s.Links {
		path := filepath.Join(root, name)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes out what Create put into root. A directory that is not empty, or on which something is mounted, is
// an error and stays: nothing below a mount point is ever removed.
func (s Skeleton) Remove(root string) error {
	var problems []error
	names := make([]string, 0, len(s.Dirs)+len(s.Links))
	names = append(names, s.Dirs...)
	for name := range s.Links {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := os.Remove(filepath.Join(root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
