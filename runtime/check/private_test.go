package check

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is in the way of other files is fine in a private directory, named by whatever path.
func TestPrivateFiles(t *testing.T) {
	for _, mode := range []string{"file", "shared_file", "locked_file", "posix_lock", "deleted"} {
		t.Run(mode, func(t *testing.T) {
			file := tempFile(t)
			dir := filepath.Dir(file)
			pid := startHolder(t, nil, mode, file)
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{dir, link} {
				wantBlockers(t, inspect(t, pid, Options{Private: []string{path}}))
			}
			if report := inspect(t, pid, Options{Private: []string{t.TempDir()}}); len(report.Blockers) != 1 {
				t.Errorf("the private directory is another one, and the blockers are %v", report.Blockers)
			}
		})
	}
}

// A directory of which no instance could have its own is named.
func TestPrivateDirectories(t *testing.T) {
	file := tempFile(t)
	dir := t.TempDir()
	mounted := filepath.Join(dir, "with a mount")
	linked := filepath.Join(dir, "linked")
	for _, d := range []string{mounted, filepath.Join(mounted, "m"), linked} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(linked, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(linked, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", filepath.Join(mounted, "m"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(mounted, "m"), 0); err != nil {
			t.Error(err)
		}
	})
	pid := startHolder(t, nil, "clean", file, filepath.Dir(file))
	for path, why := range map[string]string{
		file: "a file", filepath.Join(dir, "none"): "nothing", mounted: "a mount in it", linked: "a file with two names", "/": "the root directory",
	} {
		report := inspect(t, pid, Options{Private: []string{path}})
		if len(report.Blockers) == 0 || report.Blockers[0].Object != "private directory "+path {
			t.Errorf("%s is %s, and the blockers are %v", path, why, report.Blockers)
		}
	}
	report := inspect(t, pid, Options{Private: []string{filepath.Join(mounted, "m")}})
	wantBlockers(t, report) // the mount point itself is fine
	report = inspect(t, pid, Options{Private: []string{linked}, Engine: EngineKmod})
	if len(report.Blockers) == 0 || report.Blockers[0].Object != "private directory "+linked {
		t.Errorf("for the kernel engine the blockers are %v", report.Blockers)
	}
}
