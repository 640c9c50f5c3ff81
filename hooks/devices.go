package hooks

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"corsa.dev/corsa/binderfs"
)

// The annotations that the OCI hook reads.
const (
	// AnnotationDevices lists the names of the devices that a container is to have, separated by commas:
	// "binder,hwbinder,vndbinder".
	AnnotationDevices = "dev.corsa.binder.devices"
	// AnnotationPublish is the absolute path of a directory of the host on which the container's binderfs is mounted too,
	// for apps outside of it. It may be left out.
	AnnotationPublish = "dev.corsa.binder.publish"
)

// ErrInvalid says that a declaration or the runtime's own word makes no sense.
var ErrInvalid = errors.New("invalid")

// ParseDevices reads a list of device names. The error is ErrInvalid and names the word that is wrong.
func ParseDevices(list string) ([]string, error) {
	var names []string
	for _, name := range strings.Split(list, ",") {
		if err := binderfs.CheckName(name); err != nil {
			return nil, fmt.Errorf("%w: devices %q: %w; write names separated by commas, such as binder,hwbinder,vndbinder", ErrInvalid, list, err)
		}
		if name == directory {
			return nil, fmt.Errorf("%w: devices %q: /dev/%s is where the file system is mounted", ErrInvalid, list, name)
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("%w: devices %q: %s is listed twice", ErrInvalid, list, name)
		}
		names = append(names, name)
	}
	return names, nil
}

// parsePublish reads AnnotationPublish.
func parsePublish(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return "", fmt.Errorf("%w: %s=%q: write the absolute path of a directory", ErrInvalid, AnnotationPublish, path)
	}
	return path, nil
}
