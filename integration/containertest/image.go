package containertest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image is one with busybox and further programs of this host.
type Image struct {
	Name        string            // of the image in the archive, such as localhost/redis:latest
	Programs    []string          // found in PATH; their libraries come with them
	Directories []string          // absolute; empty ones besides the usual
	Annotations map[string]string // of the manifest
	Labels      map[string]string // of the configuration
	Command     []string
}

// passwd has the user app with the uid 2001 and the group 2002.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:2001:2002:app:/tmp:/bin/sh\n"
	group  = "root:x:0:\napp:x:2002:\n"
)

// Write writes the image to path as an OCI archive, which podman and containerd both load.
func (m *Image) Write(path string) error {
	layer, err := m.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", m.Name, err)
	}
	diff := digest(layer)
	config := map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "Cmd": m.Command, "Labels": m.Labels},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff}},
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, data []byte) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
		_, werr := w.Write(data)
		err = errors.Join(err, werr)
	}
	blob := func(kind string, data []byte) map[string]any {
		d := digest(data)
		add("blobs/sha256/"+strings.TrimPrefix(d, "sha256:"), data)
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": d, "size": len(data)}
	}
	object := func(kind string, v any) map[string]any {
		data, merr := json.Marshal(v)
		err = errors.Join(err, merr)
		return blob(kind, data)
	}
	manifest := object("manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": object("config.v1+json", config), "layers": []any{blob("layer.v1.tar", layer)}, "annotations": m.Annotations,
	})
	_, tag, _ := strings.Cut(m.Name, ":")
	manifest["annotations"] = map[string]string{"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": m.Name}
	index, merr := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	err = errors.Join(err, merr)
	add("index.json", index)
	add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("image %s: %w", m.Name, err)
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// layer is the image's only one, as a tar.
func (m *Image) layer() ([]byte, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("make deps installs busybox-static: %w", err)
	}
	var out bytes.Buffer
	l := layer{w: tar.NewWriter(&out), has: map[string]bool{}}
	for _, dir := range append([]string{"/bin", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp", "/var"}, m.Directories...) {
		l.directory(dir)
	}
	l.file("/etc/passwd", []byte(passwd))
	l.file("/etc/group", []byte(group))
	l.copy(busybox, "/bin/busybox")
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	for a := range strings.FieldsSeq(string(applets)) {
		l.add(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "/bin/busybox", Mode: 0o777}, nil)
	}
	for _, p := range m.Programs {
		path, err := exec.LookPath(p)
		if err != nil {
			return nil, fmt.Errorf("make deps installs %s: %w", p, err)
		}
		l.copy(path, "/bin/"+p)
		libraries, err := librariesOf(path)
		if err != nil {
			return nil, err
		}
		for _, lib := range libraries {
			l.copy(lib, lib)
		}
	}
	return out.Bytes(), errors.Join(l.err, l.w.Close())
}

// layer is one that is being written. What is there already is left out; the first error stays.
type layer struct {
	w   *tar.Writer
	has map[string]bool
	err error
}

func (l *layer) add(h *tar.Header, data []byte) {
	if l.err != nil || l.has[h.Name] {
		return
	}
	l.has[h.Name] = true
	h.Size = int64(len(data))
	if l.err = l.w.WriteHeader(h); l.err == nil {
		_, l.err = l.w.Write(data)
	}
}

func (l *layer) directory(path string) {
	name := strings.TrimPrefix(path, "/")
	for i, c := range name {
		if c == '/' {
			l.add(&tar.Header{Name: name[:i] + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
		}
	}
	mode := int64(0o755)
	if path == "/tmp" {
		mode = 0o1777
	}
	l.add(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}, nil)
}

func (l *layer) file(path string, data []byte) {
	l.directory(filepath.Dir(path))
	l.add(&tar.Header{Name: strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o755}, data)
}

func (l *layer) copy(from, to string) {
	data, err := os.ReadFile(from)
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	l.file(to, data)
}

// librariesOf are the files that the dynamic loader opens for a program, and itself.
func librariesOf(program string) ([]string, error) {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var paths []string
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			paths = append(paths, word)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}
