package service

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/runtime/sandbox"
)

// ErrVirtualised says that a container with a virtualised service cannot be dumped or restored as a whole: what its
// instances are to each other, and to the gate, is known to the engine and not to CRIU.
var ErrVirtualised = errors.New("not possible with a virtualised service")

// RefuseDump refuses a container that is, or is to be, a virtualised service. ErrVirtualised.
func RefuseDump(s *sandbox.Sandbox) error {
	state, err := s.State()
	if err != nil {
		return err
	}
	svc, err := Declared(state.Annotations)
	if err != nil {
		return err
	}
	if svc == nil && !s.HasReaper() {
		return nil
	}
	return fmt.Errorf("checkpoint container %q as a whole: %w; `corsa checkpoint --app APP %s` takes one of an app", s.ID(), ErrVirtualised, s.ID())
}

// RefuseRestore refuses a bundle that declares a service. ErrVirtualised.
func RefuseRestore(bundle *specs.Spec, id string) error {
	svc, err := Declared(bundle.Annotations)
	if err != nil || svc == nil {
		return err
	}
	return fmt.Errorf("restore container %q from an image: %w; `corsa run` starts the service anew, and `corsa restore --app APP ID` "+
		"restores an app of one that runs", id, ErrVirtualised)
}
