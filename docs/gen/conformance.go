package main

import (
	"os"

	"corsa.dev/corsa/runtime/engine/enginetest"
)

const conformanceHead = `# Kernel objects and engines

What becomes of what a service holds. *Private*: each instance has its own, with the state at the checkpoint. *Shared*: common to all
instances. *Refused*: named before anything is touched, with the reason and the way out. *Partly*: private but for what is said. Each row is proven by programs in
` + "`runtime/engine/enginetest/programs`" + `, which the suite takes through branch, activation, checkpoint, change, restore and crash, or whose refusal
it asserts, words included; the table is generated from what they declare (` + "`go generate ./docs/gen`" + `). ` + "`go test -v -run Conformance`" + ` in an
engine's directory prints what came out on this machine. [engine-fork.md](engine-fork.md) and [engine-kmod.md](engine-kmod.md) say how, and what the limits are.

`

// conformance is the page about what becomes of what.
func conformance() (string, error) {
	table, err := enginetest.Report()
	return conformanceHead + table, err
}

func writeConformance(path string) error {
	text, err := conformance()
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
