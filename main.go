// Corsa runs an OS service once and gives every app its own private instance of it. It is also an OCI container
// runtime with runc's verbs.
package main

import (
	"os"

	"corsa.dev/corsa/cli"
	"corsa.dev/corsa/runtime/sandbox"
)

func main() {
	// In the process that becomes a container's first one nothing of ours may run before this.
	sandbox.Init()
	os.Exit(cli.Main(os.Args[1:]))
}
