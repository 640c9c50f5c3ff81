package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// Files of an image that are not CRIU's.
const (
	descriptorsFile = "descriptors.json" // runc's: what the standard streams were
	manifestFile    = "corsa.json"
	manifestVersion = 1
)

var (
	// ErrNoImage says that a directory holds no image, or one that was never completed or has been damaged.
	ErrNoImage = errors.New("not a checkpoint image")
	// ErrForeignImage says that an image cannot be restored on this machine.
	ErrForeignImage = errors.New("image of another machine")
)

// Manifest says what an image is of. It is written last: an image without it was not completed, or is runc's.
type Manifest struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`     // of the container
	Rootfs  string    `json:"rootfs"` // on the host that it was dumped on
	Created time.Time `json:"created"`
	Kernel  string    `json:"kernel"`
	Machine string    `json:"machine"` // GOARCH
	CPU     []string  `json:"cpu"`     // features that programs may have found and use
	CRIU    string    `json:"criu"`
	// Streams are the names of the standard streams that are files of the host; "": the stream is something else.
	Streams [3]string `json:"streams"`
	// Mapped are the SHA-256 of files that are mapped and have no build ID, by CRIU's number for the file.
	Mapped map[uint32]string `json:"mapped,omitempty"`
	// Files are the sizes of the image's files, in bytes.
	Files map[string]int64 `json:"files"`
}

// write completes the manifest and with it the image.
func (m *Manifest) write(dir string) (err error) {
	m.Version, m.Machine, m.Created, m.CPU = manifestVersion, runtime.GOARCH, time.Now().UTC(), cpuFeatures()
	if m.Kernel, err = kernelRelease(); err != nil {
		return err
	}
	if m.Files, err = sizes(dir); err != nil {
		return fmt.Errorf("list the image: %w", err)
	}
	return writeJSON(dir, manifestFile, m)
}

// sizes are those of CRIU's files in dir.
func sizes(dir string) (map[string]int64, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		return nil, err
	}
	files := map[string]int64{}
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		files[filepath.Base(p)] = fi.Size()
	}
	return files, nil
}

// Open reads the manifest of the image in dir and compares the image and this machine with it. nil: the image is runc's, and
// only CRIU will tell. ErrNoImage, ErrForeignImage.
func Open(dir string) (*Manifest, error) {
	m, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}

func open(dir string) (*Manifest, error) {
	const wayOut = "--image-path must be a directory that `corsa checkpoint` wrote"
	for _, name := range []string{"inventory.img", "pstree.img", descriptorsFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: it has no %s; %s", ErrNoImage, name, wayOut)
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w; %s", ErrNoImage, err, wayOut)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m := new(Manifest)
	if err == nil {
		err = json.Unmarshal(data, m)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; %s", ErrNoImage, manifestFile, err, wayOut)
	}
	return m, m.check(dir)
}

// check compares the image and this machine with the manifest.
func (m *Manifest) check(dir string) error {
	switch {
	case m.Version != manifestVersion:
		return fmt.Errorf("%w: its manifest has version %d, this program knows %d", ErrNoImage, m.Version, manifestVersion)
	case m.Machine != runtime.GOARCH:
		return fmt.Errorf("%w: it was dumped on %s and this is %s", ErrForeignImage, m.Machine, runtime.GOARCH)
	}
	for name, size := range m.Files {
		fi, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s is missing; copy the image again", ErrNoImage, name)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoImage, err)
		}
		if fi.Size() != size {
			return fmt.Errorf("%w: %s is truncated: it has %d bytes and had %d; copy the image again", ErrNoImage, name, fi.Size(), size)
		}
	}
	have := cpuFeatures()
	lacks := slices.DeleteFunc(slices.Clone(m.CPU), func(f string) bool { return slices.Contains(have, f) })
	if len(lacks) > 0 {
		return fmt.Errorf("%w: its programs may use features that this CPU does not have: %s; restore it on a machine like the one it is from",
			ErrForeignImage, strings.Join(lacks, ", "))
	}
	return nil
}

// Warnings are differences between the machine of the image and this one that CRIU deals with, as a rule.
func (m *Manifest) Warnings() []string {
	if m == nil {
		return nil
	}
	kernel, err := kernelRelease()
	if err != nil || kernel == m.Kernel {
		return nil
	}
	return []string{fmt.Sprintf("the image is from a machine with kernel %s, this one has %s", m.Kernel, kernel)}
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// cpuFeatures are what a program can find out by the CPUID instruction and then use.
func cpuFeatures() []string {
	var list []string
	v := reflect.ValueOf(cpu.X86)
	for i := range v.NumField() {
		f := v.Field(i)
		if name, ok := strings.CutPrefix(v.Type().Field(i).Name, "Has"); ok && f.Kind() == reflect.Bool && f.Bool() {
			list = append(list, strings.ToLower(name))
		}
	}
	return list
}

// readDescriptors reads runc's file.
func readDescriptors(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, descriptorsFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoImage, err)
	}
	var d []string
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoImage, descriptorsFile, err)
	}
	return d, nil
}
