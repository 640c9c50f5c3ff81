package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/hooks"
	"corsa.dev/corsa/spec"
)

// A container with the annotation of package hooks gets its binderfs from that hook, as it would under another runtime. It
// has to run while the container's mounts are made and its root is not changed yet, and, to take back what the host sees,
// after its end: perhaps in another process. So it is a command like any other hook, and the command is this program.

// binderHook is the name by which Init knows that it is to be the hook; the variable keeps others from being taken for it.
const (
	binderHook         = "binder-hook"
	binderHookVariable = "_CORSA_BINDER_HOOK"
	standaloneHook     = "corsa-binderfs-hook"
)

// addBinderHook adds the hook to the configuration of a container that wants it and does not have it already.
func addBinderHook(cfg *configs.Config, o *Options, s *specs.Spec) error {
	list, ok := s.Annotations[hooks.AnnotationDevices]
	if !ok || runsBinderHook(s) {
		return nil
	}
	if _, err := hooks.ParseDevices(list); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalidBundle, hooks.AnnotationDevices, err)
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(root))
	hook := configs.NewCommandHook(&configs.Command{
		Path: "/proc/self/exe",
		Args: []string{"corsa", binderHook, o.ID + "-" + hex.EncodeToString(sum[:4])},
		Env:  []string{binderHookVariable + "=1"},
	})
	if cfg.Hooks == nil {
		cfg.Hooks = configs.Hooks{}
	}
	for _, stage := range []configs.HookName{configs.CreateRuntime, configs.Poststop} {
		cfg.Hooks[stage] = append(cfg.Hooks[stage], hook)
	}
	return nil
}

// mountBinder mounts the binderfs of a Binder service in such a way that the driver tells what it knows of the devices, which
// a broker needs. For others the hook mounts it. Only the initial user namespace may have that.
func mountBinder(s *specs.Spec) {
	const mount = "/dev/binderfs"
	if s.Annotations[spec.KeyGate] != spec.GateBinder {
		return
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return
		}
	}
	if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == mount }) {
		return
	}
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: mount, Type: "binder", Source: "binder", Options: []string{"nosuid", "noexec", "stats=global"},
	})
}

// runsBinderHook tells whether somebody else, such as podman, has put the hook into the bundle.
func runsBinderHook(s *specs.Spec) bool {
	return s.Hooks != nil && slices.ContainsFunc(s.Hooks.CreateRuntime, func(h specs.Hook) bool {
		return filepath.Base(h.Path) == standaloneHook
	})
}

// beBinderHook is the hook's process. Containers with one id may exist under several roots; name tells them apart.
func beBinderHook(name string) {
	err := func() error {
		var state specs.State
		if err := json.NewDecoder(os.Stdin).Decode(&state); err != nil {
			return fmt.Errorf("state of the container: %w", err)
		}
		state.ID = name
		text, err := json.Marshal(state)
		if err != nil {
			return err
		}
		return hooks.OCI(bytes.NewReader(text))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "binder devices:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
