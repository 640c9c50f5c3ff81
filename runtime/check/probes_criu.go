package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"corsa.dev/corsa/runtime/criu"
)

// leastCRIU is the first version that restores on the kernels of today: before it the vdso of Linux 6.13 is not understood.
var leastCRIU = [2]int{4, 1}

// criuTests are about the CRIU that --criu names, or the one that is found without it.
func criuTests(flag string) []test {
	const another = "install the package corsa-criu, run `make deps` in corsa's source tree, or name another with --criu or CORSA_CRIU"
	ask := func(question func(context.Context, criu.Program) error) func() (string, error) {
		return func() (string, error) {
			program, err := criu.Find(flag)
			if err != nil {
				return "", fmt.Errorf("there is nothing to ask: %w", err)
			}
			err = question(context.Background(), program)
			if errors.Is(err, criu.ErrLacks) {
				err = absent("%v", err)
			}
			return "", err
		}
	}
	feature := func(name string) func() (string, error) {
		return ask(func(ctx context.Context, p criu.Program) error { return p.Feature(ctx, name) })
	}
	return []test{
		{Probe{
			Name: "criu", Tests: "which CRIU is there", RequiredBy: []string{EngineCRIU}, UsefulFor: "checkpoints of containers",
			WayOut: another,
		}, func() (string, error) { return findCRIU(flag) }},
		{Probe{
			Name: "criu-check", Tests: "does CRIU find what every checkpoint of a container needs", UsefulFor: "checkpoints of containers",
			WayOut: "take CRIU 4.2 or later, as root, on a kernel with CONFIG_CHECKPOINT_RESTORE",
		}, ask(func(ctx context.Context, p criu.Program) error { return p.Check(ctx) })},
		{Probe{
			Name: "criu-tcp", Tests: "can CRIU dump TCP sockets", UsefulFor: "checkpoints of containers that have TCP sockets, listening ones too",
			WayOut: "take CRIU 4.2 or later; " + another,
		}, ask(func(ctx context.Context, p criu.Program) error { return p.TCP(ctx) })},
		{Probe{
			Name: "criu-pre-dump", Tests: "can CRIU tell which pages were written to", UsefulFor: "corsa checkpoint --pre-dump",
			WayOut: "use a kernel with CONFIG_MEM_SOFT_DIRTY; dumps with --parent-path do without it",
		}, feature(criu.FeatureMemoryTracking)},
		{Probe{
			Name: "criu-lazy-pages", Tests: "can CRIU load memory when it is touched", UsefulFor: "corsa restore --lazy-pages", LeastKernel: "4.11",
			WayOut: "use a kernel with CONFIG_USERFAULTFD",
		}, feature(criu.FeatureLazyPages)},
		{Probe{
			Name: "criu-config", Tests: "is CRIU free of configuration files that change what it does for other runtimes",
			UsefulFor: "checkpoints by other runtimes; corsa does not have them read",
			WayOut:    "move the files away or check what they set",
		}, testCRIUConfig},
	}
}

func findCRIU(flag string) (string, error) {
	program, err := criu.Find(flag)
	if errors.Is(err, criu.ErrNotFound) {
		return "", absent("%v", err)
	}
	if err != nil {
		return "", err
	}
	version, err := program.Version(context.Background())
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s (%s), version %s", program.Path, program.From, version)
	if version.Before(leastCRIU[0], leastCRIU[1]) {
		return "", absent("%s, is older than %d.%d", text, leastCRIU[0], leastCRIU[1])
	}
	return text, nil
}

func testCRIUConfig() (string, error) {
	files := []string{"/etc/criu/default.conf", "/etc/criu/runc.conf"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".criu", "default.conf"))
	}
	var found []string
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			found = append(found, file)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if len(found) > 0 {
		return "", absent("there is %s", strings.Join(found, ", "))
	}
	return "", nil
}
