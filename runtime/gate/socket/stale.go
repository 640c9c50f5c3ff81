package socket

import (
	"errors"
	"io/fs"
	"os"
)

// RemoveStale removes the unix socket at path, and the service's own one that a gate keeps aside meanwhile, unless
// somebody listens there. It is for after the end of a service: a program that does not remove its socket itself, or a
// gate that was killed, leaves one, and many programs do not start where one is. What is not a socket stays.
func RemoveStale(path string) error {
	var errs []error
	for _, p := range []string{path, path + asideSuffix} {
		fi, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode()&fs.ModeSocket == 0 || listening(p) {
			continue
		}
		if err == nil {
			err = os.Remove(p)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
