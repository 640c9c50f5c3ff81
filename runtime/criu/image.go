package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Files of an image that are not CRIU's.
const (
	descriptorsFile = "descriptors.json" // runc's: what the standard streams were
	manifestFile    = "corsa.json"
	manifestVersion = 1
)

var (
	// ErrNoImage says that a directory holds no image, or one that was never completed.
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
	CRIU    string    `json:"criu"`
}

func (m *Manifest) write(dir string) error {
	m.Version, m.Machine, m.Created = manifestVersion, runtime.GOARCH, time.Now().UTC()
	return writeJSON(dir, manifestFile, m)
}

// Open reads the manifest of the image in dir; nil: the image is runc's. ErrNoImage, ErrForeignImage.
func Open(dir string) (*Manifest, error) {
	for _, name := range []string{"inventory.img", "pstree.img", descriptorsFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("%s: %w: %w; --image-path must be the directory that `corsa checkpoint` wrote", dir, ErrNoImage, err)
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
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrNoImage, err)
	}
	switch {
	case m.Version != manifestVersion:
		return nil, fmt.Errorf("%s: %w: its manifest has version %d, this program knows %d", dir, ErrNoImage, m.Version, manifestVersion)
	case m.Machine != runtime.GOARCH:
		return nil, fmt.Errorf("%s: %w: it was dumped on %s and this is %s", dir, ErrForeignImage, m.Machine, runtime.GOARCH)
	}
	return m, nil
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
