package vm_test

import (
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// A Binder service has a private instance for every app without corsa.ko, too: on the fork engine, behind the broker.
func TestBroker(t *testing.T) {
	each(t, func(t *testing.T, k vm.Kernel) {
		vmtest.Run(t, vmtest.Suite{
			Package: "corsa.dev/corsa/runtime/gate/binder/broker", NoSkips: true,
			Options: vm.Options{Kernel: k.Name, SMP: 2, Memory: 1024, Load: []string{"binder"}, Timeout: 10 * time.Minute},
		})
	})
}
