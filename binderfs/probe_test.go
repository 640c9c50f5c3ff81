package binderfs

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

func TestProbeHosts(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	zip := func(text string) *fstest.MapFile {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return &fstest.MapFile{Data: b.Bytes()}
	}
	node := &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}
	const release = "6.1.0-9-amd64"
	for name, c := range map[string]struct {
		host   fstest.MapFS
		offer  Offer
		wayOut string // part of it
	}{
		"binderfs": {fstest.MapFS{"proc/filesystems": file("nodev\tproc\nnodev\tbinder\n\text4\n")}, OfferFilesystem, ""},
		"module with binderfs": {fstest.MapFS{
			"proc/filesystems": file("nodev\tproc\n"), "boot/config-" + release: file("CONFIG_ANDROID_BINDER_IPC=m\nCONFIG_ANDROID_BINDERFS=y\n"),
			"lib/modules/" + release + "/modules.dep": file("kernel/drivers/android/binder_linux.ko.xz:\n"),
		}, OfferNone, "modprobe binder_linux"},
		"module that is not installed": {fstest.MapFS{
			"proc/filesystems": file(""), "boot/config-" + release: file("CONFIG_ANDROID_BINDER_IPC=m\nCONFIG_ANDROID_BINDERFS=y\n"),
		}, OfferNone, "install the package"},
		"module without binderfs": {fstest.MapFS{
			"proc/filesystems": file(""), "proc/config.gz": zip("CONFIG_ANDROID_BINDER_IPC=m\n# CONFIG_ANDROID_BINDERFS is not set\n"),
			"lib/modules/" + release + "/modules.dep": file("kernel/drivers/android/binder_linux.ko:\n"),
		}, OfferNone, "CONFIG_ANDROID_BINDERFS"},
		"nodes": {fstest.MapFS{
			"proc/filesystems": file(""), "dev/binder": node, "dev/hwbinder": node,
			"boot/config-" + release: file("CONFIG_ANDROID_BINDER_IPC=y\n"),
		}, OfferNodes, "CONFIG_ANDROID_BINDERFS"},
		"link in place of a node":  {fstest.MapFS{"proc/filesystems": file(""), "dev/binder": file("")}, OfferNone, release},
		"no Binder":                {fstest.MapFS{"proc/filesystems": file(""), "boot/config-" + release: file("CONFIG_EXT4_FS=y\n")}, OfferNone, "CONFIG_ANDROID_BINDER_IPC"},
		"no configuration":         {fstest.MapFS{"proc/filesystems": file("")}, OfferNone, release},
		"configuration is garbage": {fstest.MapFS{"proc/filesystems": file(""), "proc/config.gz": file("x")}, OfferNone, release},
		"no proc":                  {fstest.MapFS{}, OfferUnknown, "/proc"},
	} {
		s := probe(c.host, release)
		if s.Offer != c.offer || !strings.Contains(s.WayOut, c.wayOut) || (c.wayOut == "") != (s.WayOut == "") || s.Detail == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestProbeMounts(t *testing.T) {
	s := probe(fstest.MapFS{
		"proc/filesystems": &fstest.MapFile{Data: []byte("nodev\tbinder\n")},
		"proc/self/mountinfo": &fstest.MapFile{Data: []byte("22 1 0:5 / /dev rw shared:2 - devtmpfs udev rw\n" +
			"30 22 0:30 / /dev/binder\\040fs rw,nosuid shared:3 - binder binder rw,max=9\n")},
	}, "6.1")
	if !slices.Equal(s.Mounts, []string{"/dev/binder fs"}) {
		t.Errorf("mounts %q", s.Mounts)
	}
}

// The host itself gives one of the answers, and agrees with what mounting says.
func TestProbeHere(t *testing.T) {
	s := Probe()
	t.Logf("%+v", s)
	if os.Geteuid() != 0 {
		t.Skip("root: mounting needs it")
	}
	dir := t.TempDir()
	err := unix.Mount(fsType, dir, fsType, 0, "")
	if err == nil {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
	if want := s.Offer == OfferFilesystem; want != (err == nil) {
		t.Errorf("the offer is %q, and mounting says %v", s.Offer, err)
	}
}
