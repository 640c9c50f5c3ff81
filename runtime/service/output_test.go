package service

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// collected runs everything that is written through a collector of path and returns what it logs.
func collected(t *testing.T, path string, texts ...string) string {
	t.Helper()
	var logged bytes.Buffer
	log := logrus.New()
	log.SetOutput(&logged)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := collect(path, r, logrus.NewEntry(log))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	return logged.String()
}

func TestOutputIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "service.log")
	first := strings.Repeat("x", outputMax+1<<20) // more than is read at once
	if logged := collected(t, path, first, "second\n"); logged != "" {
		t.Errorf("logged %s", logged)
	}
	var sizes []int64
	for _, p := range []string{path + ".1", path} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, fi.Size())
	}
	if sizes[0] <= outputMax || sizes[0]+sizes[1] != int64(len(first)+len("second\n")) {
		t.Errorf("sizes %d", sizes)
	}
}

// A service must not block when its output cannot be kept, and somebody should know.
func TestOutputOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "service.log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds.
	logged := collected(t, path, strings.Repeat("x", 1<<20), "more")
	if n := strings.Count(logged, "no space left"); n != 1 {
		t.Errorf("logged %d times: %s", n, logged)
	}
}
