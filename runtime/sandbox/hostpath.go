package sandbox

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// HostPath is where the host has what the container has at path, an absolute, clean path, if that lies in a bind mount of
// the bundle; a path that is a symbolic link in the container is not followed. false: it lies in the container's root or in a
// file system of its own.
func (s *Sandbox) HostPath(path string) (string, bool) {
	return hostPath(s.container.Config().Mounts, path)
}

// hostPath looks for the mount that was made last of those that cover path.
func hostPath(mounts []*configs.Mount, path string) (string, bool) {
	found, ok := "", false
	for _, m := range mounts {
		rest, covers := strings.CutPrefix(path+"/", strings.TrimSuffix(filepath.Clean(m.Destination), "/")+"/")
		if !covers {
			continue
		}
		found, ok = "", m.Flags&unix.MS_BIND != 0
		if ok {
			found = filepath.Join(m.Source, rest)
		}
	}
	return found, ok
}
