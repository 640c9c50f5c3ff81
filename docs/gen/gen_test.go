package main

import (
	"os"
	"path/filepath"
	"testing"

	"corsa.dev/corsa/cli"
)

func TestPagesAreUpToDate(t *testing.T) {
	dir := filepath.Join("..", "cli")
	want := pages(cli.Tree())
	for name, text := range want {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(have) != text {
			t.Errorf("docs/cli/%s is not what the verb's help says (%v); run: go generate ./docs/gen", name, err)
		}
	}
	there, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if _, ok := want[filepath.Base(path)]; !ok {
			t.Errorf("docs/cli/%s describes a verb that does not exist; run: go generate ./docs/gen", filepath.Base(path))
		}
	}
}

func TestConformanceIsUpToDate(t *testing.T) {
	want, err := conformance()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join("..", "conformance-engines.md"))
	if err != nil || string(have) != want {
		t.Errorf("docs/conformance-engines.md is not what the programs of the suite declare (%v); run: go generate ./docs/gen", err)
	}
}
