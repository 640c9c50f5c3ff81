package sandbox

import (
	"os"

	// Without it every create fails: "cgroup manager is not configured to set device rules".
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	// Its C constructor joins and makes the namespaces of a re-executed init before the Go runtime starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// initVariable is in the environment of a container's first process until that executes its program.
const initVariable = "_LIBCONTAINER_INITPIPE"

// Init must be the first call of main, and of TestMain in tests that create sandboxes. libcontainer starts a
// container by executing the current program again with the single argument "init"; in that process Init sets up
// the container, executes its program and never returns. The same goes for the hook that makes a container's Binder
// devices, and for the guard of a restore. In any other process it does nothing.
func Init() {
	if len(os.Args) == 3 && os.Args[1] == binderHook && os.Getenv(binderHookVariable) != "" {
		beBinderHook(os.Args[2])
	}
	if len(os.Args) == 7 && os.Args[1] == guardName && os.Getenv(guardVariable) != "" {
		beGuard(os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6])
	}
	if len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv(initVariable) != "" {
		libcontainer.Init()
	}
}
