package enginetest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// ProgramsVariable names an environment variable. If it is set, Run takes the test services from that directory, as
// BuildPrograms has made them, and needs no compiler: for a test binary that runs in a VM or on another machine.
const ProgramsVariable = "CORSA_ENGINETEST_PROGRAMS"

// BuildPrograms compiles all test services into dir, each at its source's path below programs without the ".c".
func BuildPrograms(dir string) error {
	work, err := os.MkdirTemp("", "corsa-programs-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.CopyFS(work, sources); err != nil {
		return err
	}
	src := filepath.Join(work, "programs")
	var wg sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	failed := make(chan error, 1)
	err = filepath.WalkDir(src, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".c" {
			return err
		}
		out := filepath.Join(dir, strings.TrimSuffix(strings.TrimPrefix(path, src), ".c"))
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			if err := compile(src, path, out); err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		})
		return nil
	})
	wg.Wait()
	select {
	case err = <-failed:
	default:
	}
	return err
}

// compile makes the executable out of one program of the tree src.
func compile(src, path, out string) error {
	gcc := exec.Command("gcc", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
		"-Wno-unused-parameter", "-I", src, "-o", out, path)
	if text, err := gcc.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(path), err, text)
	}
	return nil
}

// provide puts the executable of p at out: compiled, or copied from where it was made beforehand. The copy matters: an
// executable below the suite's own directory is how the reaper knows what is its to end.
func (b *builder) provide(p program, out string) error {
	made := os.Getenv(ProgramsVariable)
	if made == "" {
		src := filepath.Join(b.dir, "programs")
		return compile(src, filepath.Join(src, p.path), out)
	}
	text, err := os.ReadFile(filepath.Join(made, strings.TrimSuffix(p.path, ".c")))
	if err != nil {
		return err
	}
	// A child that is forked meanwhile would hold the file open for writing, and it could not be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(out, text, 0o755)
}
