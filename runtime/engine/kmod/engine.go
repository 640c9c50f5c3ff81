package kmod

import (
	"errors"
	"fmt"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
)

// New returns the kmod engine. It needs corsa.ko in the kernel; Available says whether that is there.
func New() engine.Engine { return kmodEngine{open: client.Open} }

type kmodEngine struct {
	open func() (*client.Device, error)
}

var _ engine.Exclusive = kmodEngine{}

func (kmodEngine) Name() string { return "kmod" }

// Exclusive implements engine.Exclusive.
func (kmodEngine) Exclusive() {}

// Available says in its error why the engine cannot be used on this host; errors.Is client.ErrNoModule or
// client.ErrVersion where that is certain.
func Available() error {
	d, err := client.Open()
	if err != nil {
		return fmt.Errorf("engine kmod: %w", err)
	}
	v := d.Version()
	err = d.Close()
	if need := client.FeatureCrash | client.FeatureExit; v.Features&need != need {
		err = errors.Join(err, fmt.Errorf("engine kmod: the module (version %s) cannot intercept crashes on this kernel, so one app's crash "+
			"would end all instances; way out: a kernel with kprobes (CONFIG_KPROBES)", v))
	}
	return err
}
