package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoKernel says that a kernel has not been fetched and built.
var ErrNoKernel = errors.New("kernel is not there")

// CacheVariable names the environment variable that holds the cache's directory, in place of build/vm in the source tree.
const CacheVariable = "CORSA_VM_CACHE"

// Kernel is one kernel of the cache with what was built for it.
type Kernel struct {
	Name    string // "6.1"
	Release string // what uname -r says in it
	Version string // of the Debian packages that it comes from
	Debug   bool   // it has sanitizers, lockdep and kmemleak, and is many times slower
	dir     string
}

// Cache is the directory where kernels and images are kept: $CORSA_VM_CACHE, else build/vm at the top of the source
// tree that the working directory is in.
func Cache() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "build", "vm"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("the cache of VMs is looked for in the source tree, and this is not in it: set %s", CacheVariable)
		}
		dir = up
	}
}

// Kernels are those that can be booted, oldest first, kernels for debugging last.
func Kernels() ([]Kernel, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(cache, "*", "kernel"))
	if err != nil {
		return nil, err
	}
	var all []Kernel
	for _, file := range dirs {
		k, err := openKernel(filepath.Dir(file))
		if errors.Is(err, os.ErrNotExist) {
			continue // being built
		}
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b Kernel) int {
		if a.Debug != b.Debug {
			if a.Debug {
				return 1
			}
			return -1
		}
		return compareVersions(a.Name, b.Name)
	})
	return all, nil
}

// FindKernel returns the kernel of that name, or ErrNoKernel with the way to get it.
func FindKernel(name string) (Kernel, error) {
	all, err := Kernels()
	if err != nil {
		return Kernel{}, err
	}
	names := make([]string, 0, len(all))
	for _, k := range all {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	have := "none is"
	if len(names) > 0 {
		have = strings.Join(names, ", ") + " are"
	}
	return Kernel{}, fmt.Errorf("kernel %q: %w (%s); run: make vm-deps", name, ErrNoKernel, have)
}

func openKernel(dir string) (Kernel, error) {
	k := Kernel{Name: filepath.Base(dir), dir: dir}
	for file, to := range map[string]*string{"release": &k.Release, "version": &k.Version} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return Kernel{}, err
		}
		*to = strings.TrimSpace(string(text))
	}
	k.Debug = strings.HasSuffix(k.Name, "-debug")
	_, err := os.Stat(filepath.Join(dir, "modules", "order"))
	return k, err
}

// Module is the path on the host of a module that was built for the kernel, "binder", "binder-hook" (the same driver with
// a place for corsa's gate) or "corsa"; false: it was not.
func (k Kernel) Module(name string) (string, bool) {
	path := map[string]string{
		"binder": "binder/binder_linux.ko", "binder-hook": "binder-hook/binder_linux.ko", "corsa": "kmod/corsa.ko",
	}[name]
	if path == "" {
		return "", false
	}
	path = filepath.Join(k.dir, path)
	_, err := os.Stat(path)
	return path, err == nil
}

// ModuleNames lists what Module knows, in the order in which modules are loaded.
var ModuleNames = []string{"binder", "binder-hook", "corsa"}

// Selftest is the path on the host of a test program that comes with the kernel's source: "binderfs_test".
func (k Kernel) Selftest(name string) string { return filepath.Join(k.dir, name) }

// ModuleTest is the path on the host of the program that tests corsa.ko.
func (k Kernel) ModuleTest() string { return filepath.Join(filepath.Dir(k.dir), "corsa-test") }

// GateTest is the path on the host of the program that tests the Binder gate of corsa.ko.
func (k Kernel) GateTest() string { return filepath.Join(filepath.Dir(k.dir), "corsa-binder-test") }

// compareVersions compares "6.1" and "6.12" by their numbers.
func compareVersions(a, b string) int {
	number := func(s string) (n int) {
		for _, c := range s {
			if c < '0' || c > '9' {
				break
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	for {
		a1, restA, _ := strings.Cut(a, ".")
		b1, restB, _ := strings.Cut(b, ".")
		if d := number(a1) - number(b1); d != 0 {
			return d
		}
		if restA == "" || restB == "" {
			return strings.Compare(a, b)
		}
		a, b = restA, restB
	}
}
