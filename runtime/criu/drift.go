package criu

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"golang.org/x/sys/unix"
)

// ErrDrift says that files which the processes have open or mapped are not what they were.
var ErrDrift = errors.New("files are not as they were at the checkpoint")

// namedDrifts is how many files an error names.
const namedDrifts = 5

// privateMapping is the bit of a mapping's status that says: pages of a file until they are written to.
const privateMapping = 1 << 6

// CheckFiles compares the files that the image has open or mapped with those that the container would find: in root, and in
// what mounts has in place of external mounts, by name. CRIU would find some of it out half way, and the rest not at all: what
// is mapped privately is not in the image, so other content of the same size would just be there. ErrDrift.
func CheckFiles(dir string, m *Manifest, root string, mounts map[string]string) error {
	files, err := openFiles(dir)
	if err != nil {
		return err
	}
	points, err := mountPoints(dir)
	if err != nil {
		return err
	}
	var drifts []string
	for _, f := range files {
		host, ok := points.onHost(f, root, mounts)
		if !ok {
			continue
		}
		var sum string
		if m != nil {
			sum = m.Mapped[f.GetId()]
		}
		what, err := drift(f, host, sum)
		if err != nil {
			return fmt.Errorf("compare %s with the image: %w", f.GetName(), err)
		}
		if what != "" {
			drifts = append(drifts, f.GetName()+" "+what)
		}
	}
	if len(drifts) == 0 {
		return nil
	}
	more := ""
	if n := len(drifts) - namedDrifts; n > 0 {
		drifts, more = drifts[:namedDrifts], fmt.Sprintf("; and %d more", n)
	}
	return fmt.Errorf("%w: %s%s; give the container a root and mounts with the content that it had", ErrDrift, strings.Join(drifts, "; "), more)
}

// openFiles are the regular files of the image that have a name. Deleted ones are in the image itself.
func openFiles(dir string) ([]*regfile.RegFileEntry, error) {
	entries, err := decode[fdinfo.FileEntry](dir, "files.img")
	if err != nil {
		return nil, err
	}
	remapped, err := decode[remap.RemapFilePathEntry](dir, "remap-fpath.img")
	if err != nil {
		return nil, err
	}
	deleted := map[uint32]bool{}
	for _, r := range remapped {
		deleted[r.GetOrigId()] = true
	}
	var files []*regfile.RegFileEntry
	for _, e := range entries {
		if f := e.GetReg(); f != nil && !f.GetExt() && !deleted[f.GetId()] {
			files = append(files, f)
		}
	}
	return files, nil
}

// imageMounts are the mounts of an image by number.
type imageMounts map[int32]*mnt.MntEntry

func mountPoints(dir string) (imageMounts, error) {
	entries, err := decode[mnt.MntEntry](dir, "mountpoints-*.img")
	if err != nil {
		return nil, err
	}
	m := imageMounts{}
	for _, e := range entries {
		m[int32(e.GetMntId())] = e
	}
	return m, nil
}

// onHost is where the container will find f. Not ok: on a mount that CRIU makes, and fills where that is needed.
func (m imageMounts) onHost(f *regfile.RegFileEntry, root string, external map[string]string) (path string, ok bool) {
	e := m[f.GetMntId()]
	switch {
	case e == nil:
		return "", false
	case e.GetMountpoint() == "/":
		return filepath.Join(root, f.GetName()), true
	}
	source, ok := external[e.GetExtKey()]
	if !ok || e.GetExtKey() == "" {
		return "", false
	}
	below, ok := strings.CutPrefix(f.GetName(), e.GetMountpoint())
	return filepath.Join(source, below), ok
}

// drift says how the file at path differs from f; "": not at all.
func drift(f *regfile.RegFileEntry, path, sum string) (string, error) {
	// A name in an image has no links in it, and a device must not be opened.
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return "is missing", nil
	case err != nil:
		return "", err
	case f.Mode != nil && st.Mode != f.GetMode():
		return fmt.Sprintf("has mode %#o and had %#o", st.Mode, f.GetMode()), nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", nil
	case f.Size != nil && uint64(st.Size) != f.GetSize():
		return fmt.Sprintf("has %d bytes and had %d", st.Size, f.GetSize()), nil
	}
	if len(f.GetBuildId()) > 0 {
		return driftOfBuild(f, path)
	}
	if sum == "" {
		return "", nil
	}
	now, err := sha256Of(path)
	if err == nil && now != sum {
		return "has other content", nil
	}
	return "", err
}

func driftOfBuild(f *regfile.RegFileEntry, path string) (string, error) {
	var was []byte
	for _, word := range f.GetBuildId() {
		was = binary.LittleEndian.AppendUint32(was, word)
	}
	now, err := buildID(path)
	if err != nil {
		return "is not the program or library that it was: " + err.Error(), nil
	}
	// The image has whole words, and in which byte order is CRIU's own matter.
	n := min(len(now), len(was))
	if !bytes.Equal(now[:n], was[:n]) && !bytes.Equal(now[:n], swapped(was)[:n]) {
		return fmt.Sprintf("has build ID %x and had %x", now, was), nil
	}
	return "", nil
}

func swapped(words []byte) []byte {
	s := make([]byte, len(words))
	for i := 0; i+4 <= len(words); i += 4 {
		binary.BigEndian.PutUint32(s[i:], binary.LittleEndian.Uint32(words[i:]))
	}
	return s
}

// buildID is the note of that name of an ELF file.
func buildID(path string) ([]byte, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const gnuBuildID = 3
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(p.Open(), 1<<16))
		if err != nil {
			return nil, err
		}
		for len(data) >= 12 {
			nameSize, size, typ := f.ByteOrder.Uint32(data), f.ByteOrder.Uint32(data[4:]), f.ByteOrder.Uint32(data[8:])
			name := uint64(12)
			desc := name + uint64(nameSize+3)&^3
			end := desc + uint64(size+3)&^3
			if desc+uint64(size) > uint64(len(data)) {
				break
			}
			if typ == gnuBuildID && bytes.HasPrefix(data[name:], []byte("GNU\x00")) {
				return data[desc : desc+uint64(size)], nil
			}
			data = data[min(end, uint64(len(data))):]
		}
	}
	return nil, errors.New("it has no build ID")
}

// sumMapped records the content of what is mapped privately and has no build ID. The files are found below root, which is
// that of a process of the container.
func sumMapped(dir, root string) (map[uint32]string, error) {
	files, err := openFiles(dir)
	if err != nil {
		return nil, err
	}
	spaces, err := decode[mm.MmEntry](dir, "mm-*.img")
	if err != nil {
		return nil, err
	}
	mapped := map[uint32]bool{}
	for _, s := range spaces {
		for _, v := range s.GetVmas() {
			if v.GetStatus()&privateMapping != 0 {
				mapped[uint32(v.GetShmid())] = true
			}
		}
	}
	sums := map[uint32]string{}
	for _, f := range files {
		if !mapped[f.GetId()] || len(f.GetBuildId()) > 0 || f.GetMode()&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if sums[f.GetId()], err = sha256Of(filepath.Join(root, f.GetName())); err != nil {
			return nil, fmt.Errorf("content of what is mapped: %w", err)
		}
	}
	return sums, nil
}

func sha256Of(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
