package criu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

const testBase = 0x400000

// writeMemory makes an image of one process whose pages, from testBase, have the given content; 0: there is no page.
func writeMemory(t *testing.T, dir string, content string, wide bool) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	head, err := proto.Marshal(&pagemap.PagemapHead{PagesId: proto.Uint32(1)})
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(os.Getpagesize())
	f := imgFile{magic: []byte{0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4}, messages: [][]byte{head}}
	var pages []byte
	for i, c := range []byte(content) {
		if c == '0' {
			continue
		}
		r := pageRun{address: testBase + uint64(i)*size, pages: 1, flags: pagePresent | 2, wide: wide}
		f.messages = append(f.messages, r.message())
		pages = append(pages, bytes.Repeat([]byte{c}, int(size))...)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "pages-1.img"), pages, 0o600), f.write(filepath.Join(dir, "pagemap-1.img"))); err != nil {
		t.Fatal(err)
	}
}

// readMemory is the content of count pages, as writeMemory takes it.
func readMemory(t *testing.T, dir string, count int) (content string) {
	t.Helper()
	m, err := openMemory(dir, "pagemap-1.img", maxParents)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	size := os.Getpagesize()
	for i := range count {
		page := m.page(uint64(testBase + i*size))
		switch {
		case page == nil:
			content += "0"
		case bytes.Count(page, page[:1]) != size:
			t.Fatalf("page %d is mixed", i)
		default:
			content += string(page[0])
		}
	}
	return content
}

func TestTakeOutParent(t *testing.T) {
	for _, wide := range []bool{false, true} {
		top := t.TempDir()
		dir := func(name string) string { return filepath.Join(top, name) }
		writeMemory(t, dir("a"), "aabbcc00dd", wide)
		writeMemory(t, dir("b"), "aaxbcc0eff", wide)
		writeMemory(t, dir("c"), "aaxbyc0e0f", wide)
		if err := errors.Join(takeOutParent(dir("b"), "../a"), takeOutParent(dir("c"), "../b")); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]struct {
			content string
			pages   int64
		}{"a": {"aabbcc00dd", 8}, "b": {"aaxbcc0eff", 4}, "c": {"aaxbyc0e0f", 1}} {
			if got := readMemory(t, dir(name), 10); got != want.content {
				t.Errorf("image %s, wide %v: %s, want %s", name, wide, got, want.content)
			}
			fi, err := os.Stat(filepath.Join(dir(name), "pages-1.img"))
			if err != nil {
				t.Fatal(err)
			}
			if got := fi.Size() / int64(os.Getpagesize()); got != want.pages {
				t.Errorf("image %s, wide %v: %d pages, want %d", name, wide, got, want.pages)
			}
		}
	}
}

// A process that the parent does not know keeps its pages.
func TestTakeOutOfAParentWithoutTheProcess(t *testing.T) {
	top := t.TempDir()
	writeMemory(t, filepath.Join(top, "new"), "abc", true)
	if err := os.Mkdir(filepath.Join(top, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := takeOutParent(filepath.Join(top, "new"), "../old"); err != nil {
		t.Fatal(err)
	}
	if got := readMemory(t, filepath.Join(top, "new"), 3); got != "abc" {
		t.Errorf("it has %s", got)
	}
}

func TestDamagedMemory(t *testing.T) {
	dir := t.TempDir()
	writeMemory(t, dir, "abc", true)
	if err := os.Truncate(filepath.Join(dir, "pages-1.img"), int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := openMemory(dir, "pagemap-1.img", maxParents); !errors.Is(err, ErrNoImage) {
		t.Errorf("with too few pages: %v", err)
	}
	for _, size := range []int64{2, 7, 13, 20} {
		writeMemory(t, dir, "abc", true)
		if err := os.Truncate(filepath.Join(dir, "pagemap-1.img"), size); err != nil {
			t.Fatal(err)
		}
		if _, err := openMemory(dir, "pagemap-1.img", maxParents); !errors.Is(err, ErrNoImage) {
			t.Errorf("with %d bytes: %v", size, err)
		}
	}
	// A loop of parents ends.
	writeMemory(t, dir, "abc", true)
	f, err := readImg(filepath.Join(dir, "pagemap-1.img"))
	if err != nil {
		t.Fatal(err)
	}
	r := pageRun{address: testBase + 1<<20, pages: 1, flags: pageInParent, wide: true}
	f.messages = append(slices.Clone(f.messages), r.message())
	if err := errors.Join(f.write(filepath.Join(dir, "pagemap-1.img")), os.Symlink(".", filepath.Join(dir, parentLink))); err != nil {
		t.Fatal(err)
	}
	if _, err := openMemory(dir, "pagemap-1.img", maxParents); !errors.Is(err, ErrNoImage) {
		t.Errorf("its own parent: %v", err)
	}
}
