package criu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Variable names the environment variable that says which CRIU to take.
const Variable = "CORSA_CRIU"

// ErrNotFound says that there is no CRIU.
var ErrNotFound = errors.New("CRIU is not installed")

// Where a Program was found.
const (
	FromFlag   = "--criu"
	FromEnv    = Variable
	FromPrefix = "corsa's own"
	FromPath   = "PATH"
)

// Program is a CRIU that can be executed.
type Program struct {
	Path string // absolute
	From string // FromFlag, FromEnv, FromPrefix or FromPath
}

// prefixes are where corsa's own CRIU may be, relative to the directory of corsa's executable: as installed, and as built.
var prefixes = []string{"../lib/corsa/criu", "../build/criu"}

// Find returns the CRIU to use: flag if that is not "", else what Variable names, else the one that came with corsa, which
// brings its own C library, else the first in PATH. ErrNotFound. It is not executed, so it may be of any version.
func Find(flag string) (Program, error) {
	for _, named := range []Program{{flag, FromFlag}, {os.Getenv(Variable), FromEnv}} {
		if named.Path == "" {
			continue
		}
		path, err := exec.LookPath(named.Path)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return Program{}, fmt.Errorf("%w: %s: %w; name another or none", ErrNotFound, named.From, err)
		}
		return Program{path, named.From}, nil
	}
	dir, err := Prefix()
	if err == nil {
		return Program{filepath.Join(dir, "bin", "criu"), FromPrefix}, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return Program{}, err
	}
	path, err := exec.LookPath("criu")
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return Program{}, fmt.Errorf("%w: %w; install the package corsa-criu, run `make deps` in corsa's source tree, or name one with --criu or %s",
			ErrNotFound, err, Variable)
	}
	return Program{path, FromPath}, nil
}

// Prefix is the directory of the CRIU that came with corsa. Its bin directory has nothing but criu in it, and can be put into
// the PATH of programs that find theirs there. ErrNotFound.
func Prefix() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the CRIU that came with corsa: %w", err)
	}
	// A link to corsa in a directory of PATH leads to where corsa was installed.
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	for _, prefix := range prefixes {
		dir := filepath.Join(filepath.Dir(self), prefix)
		if _, err := exec.LookPath(filepath.Join(dir, "bin", "criu")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w in a directory that belongs to %s", ErrNotFound, self)
}
