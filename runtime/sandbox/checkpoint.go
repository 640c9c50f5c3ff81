package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
)

// criuConfigLabel is an annotation that names a configuration file for CRIU, as with runc.
const criuConfigLabel = "org.criu.config"

// Checkpoint dumps the container into d.ImageDir. What d says of the container itself is filled in here. Unless d says
// otherwise the container is deleted then. ErrWrongState; after any error the container goes on as it was.
func (s *Sandbox) Checkpoint(ctx context.Context, d *criu.Dump) error {
	if err := s.require("checkpoint", Running, Paused); err != nil {
		return err
	}
	state, err := s.container.State()
	if err != nil {
		return s.wrap("read state", err)
	}
	if err := s.describe(d, state); err != nil {
		return s.wrap("checkpoint", err)
	}
	if err := d.Run(ctx); err != nil {
		return s.wrap("checkpoint", err)
	}
	if d.LeaveRunning || d.PreDump {
		return nil
	}
	return s.Delete(context.WithoutCancel(ctx), true)
}

// describe fills in what d has to say of the container.
func (s *Sandbox) describe(d *criu.Dump, state *libcontainer.State) error {
	cfg := &state.Config
	d.PID = state.InitProcessPid
	d.Root = cfg.Rootfs
	d.Descriptors = state.ExternalDescriptors
	d.ConfigFile = criuConfig(cfg)
	d.Manifest.ID, d.Manifest.Rootfs = s.ID(), cfg.Rootfs
	if st, err := s.Status(); err != nil {
		return err
	} else if st == Paused {
		if d.FreezeCgroup, err = freezer(state); err != nil {
			return err
		}
	}
	for _, t := range []configs.NamespaceType{configs.NEWNET, configs.NEWPID} {
		path := cfg.Namespaces.PathOf(t)
		if path == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("%s namespace %s: %w", configs.NsName(t), path, err)
		}
		d.External = append(d.External, fmt.Sprintf("%s[%d]:%s", configs.NsName(t), st.Ino, externalNS(t)))
	}
	if d.PreDump {
		return nil
	}
	if err := externalStreams(d); err != nil {
		return err
	}
	mounts, err := externalMounts(cfg)
	if err != nil {
		return err
	}
	d.Mounts = map[string]string{}
	for _, m := range mounts {
		d.Mounts[m.place] = m.place
	}
	masked, err := maskedFiles(cfg, d.PID)
	if err != nil {
		return err
	}
	for _, place := range masked {
		d.Mounts[place] = maskName
	}
	return nil
}

// freezer is the directory of the cgroup that freezes the container.
func freezer(state *libcontainer.State) (string, error) {
	for _, controller := range []string{"freezer", ""} {
		if path := state.CgroupPaths[controller]; path != "" {
			return path, nil
		}
	}
	return "", errors.New("the container is paused, but it has no freezer cgroup; resume it")
}

// criuConfig is the configuration file that the bundle wants CRIU to read.
func criuConfig(cfg *configs.Config) string {
	file, _ := utils.SearchLabels(cfg.Labels, criuConfigLabel)
	return file
}

// externalNS is the key by which runc's images, and ours, know a namespace that existed before the container.
func externalNS(t configs.NamespaceType) string {
	name := configs.NsName(t)
	return "extRoot" + strings.ToUpper(name[:1]) + name[1:] + "NS"
}

// maskName is what the mounts over masked files are called in an image.
const maskName = "/dev/null"

// externalMount is a mount of something that is not the container's own.
type externalMount struct {
	place  string // in the container
	source string // on the host
}

// externalMounts are those of the configuration: binds, device nodes that are bound, the v1 cgroups.
func externalMounts(cfg *configs.Config) ([]externalMount, error) {
	var list []externalMount
	add := func(place, source string) {
		list = append(list, externalMount{placeInRoot(cfg.Rootfs, place), source})
	}
	for _, m := range cfg.Mounts {
		switch m.Device {
		case "bind":
			add(m.Destination, m.Source)
		case "cgroup":
			if cgroups.IsCgroup2UnifiedMode() || cfg.Namespaces.Contains(configs.NEWCGROUP) {
				continue // a mount of its own
			}
			binds, err := cgroupBinds(m.Destination)
			if err != nil {
				return nil, err
			}
			for _, b := range binds {
				add(b.place, b.source)
			}
		}
	}
	for _, n := range cfg.Devices {
		add(n.Path, n.Path)
	}
	return list, nil
}

// cgroupBinds are the mounts that libcontainer makes below place for the v1 controllers. A container without a cgroup
// namespace sees the hierarchies as the runtime does.
func cgroupBinds(place string) ([]externalMount, error) {
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, fmt.Errorf("cgroup mounts: %w", err)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("own cgroup: %w", err)
	}
	var list []externalMount
	for _, m := range mounts {
		dir, err := m.GetOwnCgroup(own)
		if err != nil {
			return nil, fmt.Errorf("own cgroup: %w", err)
		}
		below, err := filepath.Rel(m.Root, dir)
		if err != nil {
			return nil, fmt.Errorf("own cgroup: %w", err)
		}
		list = append(list, externalMount{filepath.Join(place, filepath.Base(m.Mountpoint)), filepath.Join(m.Mountpoint, below)})
	}
	return list, nil
}

// placeInRoot follows the symbolic links of path as the container would. What cannot be followed stays as it is: CRIU will
// then say that there is no such mount.
func placeInRoot(root, path string) string {
	path = strings.TrimPrefix(path, root)
	if real, err := securejoin.SecureJoin(root, path); err == nil {
		return real[len(root):]
	}
	return path
}

// maskedFiles are files over which /dev/null is mounted. Directories have a tmpfs of the container's own.
func maskedFiles(cfg *configs.Config, pid int) ([]string, error) {
	var list []string
	for _, path := range cfg.MaskPaths {
		fi, err := os.Stat(fmt.Sprintf("/proc/%d/root/%s", pid, path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("masked path: %w", err)
		case !fi.IsDir():
			list = append(list, path)
		}
	}
	return list, nil
}
