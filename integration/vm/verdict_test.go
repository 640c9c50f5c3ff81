package vm

import "testing"

func TestEarly(t *testing.T) {
	for name, c := range map[string]struct {
		console string
		want    bool
	}{
		"int3 while booting": {"Oops: int3: 0000 [#1]\n </TASK>\nModules linked in:\n---[ end trace ]---\nKernel panic - not syncing: Fatal exception\n", true},
		"with a module":      {"Oops: 0000 [#1]\nModules linked in: corsa(OE) binder_linux\nKernel panic - not syncing: Fatal exception\n", false},
		"second one with":    {"WARNING\nModules linked in:\nOops\nModules linked in: corsa(OE)\nKernel panic - not syncing\n", false},
		"it lived on":        {"WARNING: CPU: 0\nModules linked in:\n---[ end trace ]---\n", false},
		"no list":            {"Kernel panic - not syncing: VFS: Unable to mount root fs\n", false},
	} {
		if got := (&KernelError{Console: c.console}).early(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
