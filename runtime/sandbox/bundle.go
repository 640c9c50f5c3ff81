package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/spec"
)

// LoadSpec reads and checks config.json of the bundle directory. Every error is an ErrInvalidBundle.
func LoadSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: JSON specification file %s not found; `corsa spec` writes one", ErrInvalidBundle, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidBundle, err)
	}
	var config *specs.Spec
	if err := spec.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalidBundle, path, err)
	}
	if err := checkSpec(config); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalidBundle, path, err)
	}
	return config, nil
}

func checkSpec(spec *specs.Spec) error {
	if spec == nil {
		return errors.New("it must not be null")
	}
	// Version 1 has only ever been added to. runc takes a bundle that names none.
	if major, _, _ := strings.Cut(spec.Version, "."); spec.Version != "" && major != "1" {
		return fmt.Errorf("ociVersion %q is not known; corsa knows 1.0 to %s", spec.Version, specs.Version)
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return errors.New("root.path must be set")
	}
	if spec.Linux == nil {
		return errors.New("linux must be set")
	}
	return checkProcess(spec.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process must be set")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd %q must be an absolute path", p.Cwd)
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process.args must name a program")
	}
	return nil
}

// containerConfig converts the spec. specconv takes relative paths from the working directory, which belongs to
// the whole process; so they are made absolute here and the bundle label is set to what it should be.
func containerConfig(o *Options, bundle string, spec *specs.Spec) (*configs.Config, error) {
	s := *spec
	root := *spec.Root
	root.Path = absFrom(bundle, root.Path)
	s.Root = &root
	s.Mounts = slices.Clone(spec.Mounts)
	for i := range s.Mounts {
		if m := &s.Mounts[i]; isBind(m) && m.Source != "" {
			m.Source = absFrom(bundle, m.Source)
		}
	}
	mountBinder(&s)
	rootless := os.Geteuid() != 0
	rootlessCgroups := rootless || InUserNamespace()
	if o.RootlessCgroups != nil {
		rootlessCgroups = *o.RootlessCgroups
	}
	cfg, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       cmp.Or(o.CgroupName, o.ID),
		UseSystemdCgroup: o.SystemdCgroup,
		NoPivotRoot:      o.NoPivot,
		NoNewKeyring:     o.NoNewKeyring,
		Spec:             &s,
		RootlessEUID:     rootless,
		RootlessCgroups:  rootlessCgroups,
	})
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrInvalidBundle, bundle, err)
	}
	if err := addBinderHook(cfg, o, spec); err != nil {
		return nil, err
	}
	cfg.Labels = slices.DeleteFunc(cfg.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") })
	cfg.Labels = append(cfg.Labels, "bundle="+bundle)
	if o.Reaper {
		cfg.Labels = append(cfg.Labels, reaperLabel+"=true")
	}
	return cfg, nil
}

// InUserNamespace tells whether our user ids are others than the host's.
func InUserNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, count uint64
	if err == nil {
		_, err = fmt.Sscan(string(data), &inside, &outside, &count)
	}
	return err == nil && (inside != 0 || outside != 0 || count != 1<<32-1) // an error: a kernel without user namespaces
}

func isBind(m *specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func absFrom(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// mountsProc tells whether the container will have a proc file system at /proc.
func mountsProc(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return filepath.Clean(m.Destination) == "/proc"
	})
}
