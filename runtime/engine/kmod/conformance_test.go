package kmod

import (
	"testing"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/enginetest"
)

// TestConformance needs corsa.ko in the kernel: integration/vm runs it in a VM. With -short it repeats less often, for
// an emulated machine.
func TestConformance(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	o := enginetest.Options{WakesOnce: true}
	if testing.Short() {
		o.ParkCycles, o.Deaths = 200, 8
	}
	enginetest.Run(t, func(*testing.T) engine.Engine { return New() }, o)
}
