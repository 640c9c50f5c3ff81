package criu

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Where the kernel cannot tell which pages were written to, CRIU writes all of them, and those that the parent image has
// with the same content are taken out again here. A restore finds them by the link to the parent, as it does with images
// that were smaller from the beginning.

// parentLink is CRIU's name for the parent image in the directory of an image.
const parentLink = "parent"

// Bits of a pagemap entry's flags.
const (
	pageInParent = 1 << 0
	pagePresent  = 1 << 2
)

// Fields of a pagemap entry. CRIU 4.2 has the last one, for more pages than fit in the second; go-criu does not know it.
const (
	fieldAddress  = 1
	fieldPages    = 2
	fieldInParent = 3
	fieldFlags    = 4
	fieldPages64  = 5
)

// pageRun is a pagemap entry: pages one after the other with the same flags.
type pageRun struct {
	address uint64
	pages   uint64
	flags   uint32
	wide    bool   // the number of pages is in the last field
	offset  uint64 // of its first page in the pages file, in bytes
}

// memory is what one image says of the memory of one process.
type memory struct {
	head   *imgFile // magic and first message
	runs   []pageRun
	pages  []byte // mapped; nil: there are none
	path   string // of the file behind pages
	parent *memory
}

// openMemory reads the pagemap of process pid of the image in dir, and of its parents. nil: it has none.
func openMemory(dir, name string, depth int) (_ *memory, err error) {
	if depth == 0 {
		return nil, fmt.Errorf("%w: more than %d parents", ErrNoImage, maxParents)
	}
	f, err := readImg(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(f.messages) == 0 {
		return nil, fmt.Errorf("%w: %s is truncated", ErrNoImage, name)
	}
	head := new(pagemap.PagemapHead)
	if err := proto.Unmarshal(f.messages[0], head); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoImage, name, err)
	}
	m := &memory{head: &imgFile{f.magic, f.messages[:1]}, path: filepath.Join(dir, fmt.Sprintf("pages-%d.img", head.GetPagesId()))}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.pages, err = mapFile(m.path); err != nil {
		return nil, err
	}
	page, offset, inParent := uint64(os.Getpagesize()), uint64(0), false
	for _, message := range f.messages[1:] {
		r, err := parseRun(message)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNoImage, name, err)
		}
		r.offset = offset
		if r.flags&pagePresent != 0 {
			offset += r.pages * page
		}
		inParent = inParent || r.flags&pageInParent != 0
		m.runs = append(m.runs, r)
	}
	if offset > uint64(len(m.pages)) {
		return nil, fmt.Errorf("%w: %s is truncated", ErrNoImage, filepath.Base(m.path))
	}
	if inParent {
		// Resolved, since a path may lead through no more than 40 links.
		parent, err := filepath.EvalSymlinks(filepath.Join(dir, parentLink))
		if err == nil {
			m.parent, err = openMemory(parent, name, depth-1)
		}
		if err != nil {
			return nil, fmt.Errorf("parent image: %w", err)
		}
	}
	return m, nil
}

// maxParents bounds how long a chain of images may be.
const maxParents = 1024

func (m *memory) close() {
	if m == nil {
		return
	}
	if m.pages != nil {
		_ = unix.Munmap(m.pages) // read only
	}
	m.parent.close()
}

// page is the content of the page at address, nil if there is none.
func (m *memory) page(address uint64) []byte {
	if m == nil {
		return nil
	}
	size := uint64(os.Getpagesize())
	i := sort.Search(len(m.runs), func(i int) bool { return m.runs[i].address+m.runs[i].pages*size > address })
	if i == len(m.runs) || m.runs[i].address > address {
		return nil
	}
	r := &m.runs[i]
	switch {
	case r.flags&pageInParent != 0:
		return m.parent.page(address)
	case r.flags&pagePresent != 0:
		at := r.offset + address - r.address
		return m.pages[at : at+size]
	}
	return nil
}

// takeOutParent makes the image in dir refer to its parent, relative to it, for all pages that that has, too.
func takeOutParent(dir, parent string) error {
	if err := os.Remove(filepath.Join(dir, parentLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link to the parent image: %w", err)
	}
	if err := os.Symlink(parent, filepath.Join(dir, parentLink)); err != nil {
		return fmt.Errorf("link to the parent image: %w", err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "pagemap-[0-9]*.img"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := takeOutPages(dir, filepath.Base(path)); err != nil {
			return fmt.Errorf("take out pages of the parent image: %w", err)
		}
	}
	return nil
}

// takeOutPages does so for one process.
func takeOutPages(dir, name string) error {
	m, err := openMemory(dir, name, maxParents)
	if err != nil || m == nil {
		return err
	}
	defer m.close()
	parent, err := openMemory(filepath.Join(dir, parentLink), name, maxParents)
	if err != nil || parent == nil {
		return err // a process that the parent does not know
	}
	defer parent.close()
	pages, err := os.Create(m.path + ".new")
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(pages, 1<<20)
	runs, err := m.without(parent, out)
	if err = errors.Join(err, out.Flush(), pages.Close()); err != nil {
		return errors.Join(err, os.Remove(pages.Name()))
	}
	for _, r := range runs {
		m.head.messages = append(m.head.messages, r.message())
	}
	// There is no manifest yet, so nobody takes the image for one while the two do not fit.
	if err := os.Rename(pages.Name(), m.path); err != nil {
		return err
	}
	return m.head.write(filepath.Join(dir, name))
}

// without writes to out the pages that parent does not have, and returns the runs that say so.
func (m *memory) without(parent *memory, out *bufio.Writer) ([]pageRun, error) {
	size := uint64(os.Getpagesize())
	var runs []pageRun
	for _, r := range m.runs {
		if r.flags&pagePresent == 0 {
			runs = append(runs, r)
			continue
		}
		for i := range r.pages {
			address := r.address + i*size
			page := m.pages[r.offset+i*size:][:size]
			flags := r.flags
			if bytes.Equal(page, parent.page(address)) {
				flags = pageInParent
			} else if _, err := out.Write(page); err != nil {
				return nil, err
			}
			last := len(runs) - 1
			if i > 0 && runs[last].flags == flags {
				runs[last].pages++
				continue
			}
			runs = append(runs, pageRun{address: address, pages: 1, flags: flags, wide: r.wide})
		}
	}
	return runs, nil
}

func parseRun(data []byte) (r pageRun, err error) {
	for len(data) > 0 {
		field, typ, n := protowire.ConsumeTag(data)
		if n < 0 || typ != protowire.VarintType {
			return r, errors.New("malformed entry")
		}
		value, k := protowire.ConsumeVarint(data[n:])
		if k < 0 {
			return r, errors.New("malformed entry")
		}
		data = data[n+k:]
		switch field {
		case fieldAddress:
			r.address = value
		case fieldPages:
			r.pages = max(r.pages, value)
		case fieldPages64:
			r.pages, r.wide = max(r.pages, value), true
		case fieldFlags:
			r.flags |= uint32(value)
		case fieldInParent:
			if value != 0 {
				r.flags |= pageInParent
			}
		default:
			return r, fmt.Errorf("unknown field %d: CRIU is newer than what this program knows", field)
		}
	}
	if r.flags == 0 {
		r.flags = pagePresent // as old versions wrote it
	}
	return r, nil
}

func (r *pageRun) message() []byte {
	var b []byte
	add := func(field protowire.Number, value uint64) {
		b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), value)
	}
	add(fieldAddress, r.address)
	if r.wide {
		add(fieldPages, 0) // it is required
		add(fieldFlags, uint64(r.flags))
		add(fieldPages64, r.pages)
	} else {
		add(fieldPages, r.pages)
		add(fieldFlags, uint64(r.flags))
	}
	return b
}

// mapFile maps a file for reading; nil if it is empty or not there.
func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return nil, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return data, nil
}
