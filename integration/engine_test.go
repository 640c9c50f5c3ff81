package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEngineKmodAbsent asserts that the engine says what it lacks on a host without its module, that nothing is left of
// the attempt, and that auto does without.
func TestEngineKmodAbsent(t *testing.T) {
	if _, err := os.Stat("/dev/corsa"); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("corsa.ko is loaded here")
	}
	c := newCorsa(t)
	socket := filepath.Join(t.TempDir(), "s")
	serve := []string{"serve", "--detach", "--id", "absent", "--socket", socket, "--engine", "kmod", "--"}
	c.fails(1, "the kernel module is not loaded; way out: insmod corsa.ko", append(serve, redisFlags(socket)...)...)
	if list := c.ok("list", "--quiet"); strings.TrimSpace(list) != "" {
		t.Errorf("left behind: %s", list)
	}
	c.fails(1, "contradicts --engine=kmod", "serve", "--concurrency", "parallel", "--socket", socket, "--engine", "kmod", "--", "true")
	c.fails(1, "the kernel module is not loaded", "measure", "--engine", "kmod")
	c.fails(1, `there is no engine "criu"`, "measure", "--engine", "criu")
}
