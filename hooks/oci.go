package hooks

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// OCI does what the runtime asks for by the state that it writes to its hooks' standard input: it gives a container that
// is being created (createRuntime) its binderfs, and takes back what is left of one that has ended (poststop). Containers
// without AnnotationDevices are left alone. If it fails, so should the container: nothing else has been changed then.
func OCI(stdin io.Reader) error {
	var state specs.State
	if err := json.NewDecoder(stdin).Decode(&state); err != nil {
		return fmt.Errorf("%w: standard input is not the state of a container (%w); this is a hook: the container runtime runs it", ErrInvalid, err)
	}
	if state.ID == "" || state.Bundle == "" {
		return fmt.Errorf("%w: the state on standard input lacks id or bundle: is this runtime an OCI runtime?", ErrInvalid)
	}
	if err := act(&state); err != nil {
		return fmt.Errorf("container %s: %w", state.ID, err)
	}
	return nil
}

func act(state *specs.State) error {
	config, err := readConfig(state.Bundle)
	if err != nil {
		return err
	}
	annotations := config.Annotations
	if len(state.Annotations) > 0 {
		annotations = state.Annotations
	}
	list, ok := annotations[AnnotationDevices]
	if !ok {
		return nil
	}
	devices, err := ParseDevices(list)
	if err != nil {
		return fmt.Errorf("%s: %w", AnnotationDevices, err)
	}
	var publish string
	if path, ok := annotations[AnnotationPublish]; ok {
		if publish, err = parsePublish(path); err != nil {
			return err
		}
	}
	switch state.Status {
	case specs.StateCreating, specs.StateCreated:
		return create(state, config, devices, publish)
	case specs.StateStopped:
		if publish == "" {
			return nil // all the rest has gone with the container's mount namespace
		}
		return Unpublish(publish, state.ID)
	}
	return fmt.Errorf("%w: the container is %s: use the hook for the stages createRuntime and poststop", ErrInvalid, state.Status)
}

func create(state *specs.State, config *specs.Spec, devices []string, publish string) error {
	if state.Pid <= 0 {
		return fmt.Errorf("%w: the state names no process: use the hook for the stage createRuntime", ErrInvalid)
	}
	if err := ownMounts(config); err != nil {
		return err
	}
	root := config.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(state.Bundle, root)
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return fmt.Errorf("root of the container: %w", err)
	}
	c, err := openContainer(state.Pid, root)
	if err != nil {
		return err
	}
	defer c.close()
	fs, err := c.provide(devices)
	if err != nil {
		return err
	}
	defer func() { _ = fs.Close() }()
	if err := permit(state.Pid, fs, devices); err != nil {
		return err
	}
	if publish == "" {
		return nil
	}
	return c.publish(fs, publish, state.ID)
}

func readConfig(bundle string) (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("configuration of the bundle: %w", err)
	}
	var config specs.Spec
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("%w: %s/config.json: %w", ErrInvalid, bundle, err)
	}
	if config.Root == nil || config.Root.Path == "" {
		return nil, fmt.Errorf("%w: %s/config.json has no root.path", ErrInvalid, bundle)
	}
	return &config, nil
}

// ownMounts returns an error unless the container's mounts end with it.
func ownMounts(config *specs.Spec) error {
	const wayOut = `its Binder devices would outlive it; give it {"type": "mount"} in linux.namespaces`
	if config.Linux != nil {
		for _, n := range config.Linux.Namespaces {
			if n.Type != specs.MountNamespace {
				continue
			}
			if n.Path != "" {
				return fmt.Errorf("%w: the container joins the mount namespace %s: %s without a path", ErrInvalid, n.Path, wayOut)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: the container has no mount namespace of its own: %s", ErrInvalid, wayOut)
}
