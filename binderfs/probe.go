package binderfs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Offer is what a host has of Binder.
type Offer string

// The offers, from the best on. OfferUnknown means that the probe could not tell; Support.Detail says why.
const (
	OfferFilesystem Offer = "binderfs" // devices can be made as they are needed, apart from each other
	OfferNodes      Offer = "nodes"    // a fixed set of devices in /dev, shared by everybody
	OfferNone       Offer = "none"
	OfferUnknown    Offer = "unknown"
)

// Support is the answer of Probe.
type Support struct {
	Offer  Offer    `json:"offer"`
	Nodes  []string `json:"nodes"` // plain device nodes, for whatever offer
	Mounts []string `json:"mounts"`
	Detail string   `json:"detail"`           // what was found, for people
	WayOut string   `json:"wayOut,omitempty"` // how to come to binderfs, unless it is there
}

// Probe looks at what this host has of Binder. It loads no module and mounts nothing.
func Probe() Support {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Support{Offer: OfferUnknown, Detail: "uname: " + err.Error(), Nodes: []string{}, Mounts: []string{}}
	}
	return probe(os.DirFS("/"), unix.ByteSliceToString(uts.Release[:]))
}

// nodeNames are the devices that Android and the distributions make.
var nodeNames = []string{"binder", "hwbinder", "vndbinder", "anbox-binder", "anbox-hwbinder", "anbox-vndbinder"}

// probe looks at the host whose root is root, and whose kernel's release is release.
func probe(root fs.FS, release string) Support {
	s := Support{Nodes: nodes(root), Mounts: mounts(root)}
	listed, err := filesystems(root)
	switch {
	case err != nil:
		s.Offer, s.Detail = OfferUnknown, err.Error()
		s.WayOut = "mount /proc, or run where it is readable"
		return s
	case slices.Contains(listed, fsType):
		s.Offer, s.Detail = OfferFilesystem, "the kernel has the file system binder"
		return s
	case len(s.Nodes) > 0:
		s.Offer = OfferNodes
		s.Detail = "the kernel has Binder, but no binderfs: only " + strings.Join(s.Nodes, ", ")
	default:
		s.Offer = OfferNone
	}
	why, wayOut := advise(root, release)
	if s.Detail == "" {
		s.Detail = why
	} else {
		s.Detail += "; " + why
	}
	s.WayOut = wayOut
	return s
}

func nodes(root fs.FS) []string {
	found := []string{}
	for _, name := range nodeNames {
		if st, err := fs.Stat(root, "dev/"+name); err == nil && st.Mode()&fs.ModeCharDevice != 0 {
			found = append(found, "/dev/"+name)
		}
	}
	return found
}

func filesystems(root fs.FS) ([]string, error) {
	text, err := fs.ReadFile(root, "proc/filesystems")
	if err != nil {
		return nil, fmt.Errorf("list of file systems: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			names = append(names, fields[len(fields)-1])
		}
	}
	return names, nil
}

// mounts lists where binderfs is mounted, as far as the caller's mount namespace shows it.
func mounts(root fs.FS) []string {
	found := []string{}
	text, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return found
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if kind := strings.Fields(after); ok && len(kind) > 0 && kind[0] == fsType && len(fields) > 4 {
			found = append(found, unescape(fields[4]))
		}
	}
	return found
}

// unescape turns the octal escapes of mountinfo back into what they stand for.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// The options of the kernel's configuration that matter, and the names that the module has had.
const (
	optionIPC = "CONFIG_ANDROID_BINDER_IPC"
	optionFS  = "CONFIG_ANDROID_BINDERFS"
)

var moduleNames = []string{"binder_linux", "binder"}

// advise finds out why there is no binderfs, and what to do about it.
func advise(root fs.FS, release string) (why, wayOut string) {
	config, source, err := kernelConfig(root, release)
	module := findModule(root, release)
	const build = "use a kernel with CONFIG_ANDROID_BINDER_IPC and CONFIG_ANDROID_BINDERFS, or build binder_linux with binderfs for kernel "
	switch {
	case err != nil && module != "":
		return fmt.Sprintf("the module %s is not loaded; whether it has binderfs is not known (%v)", module, err), "modprobe " + module
	case err != nil:
		return fmt.Sprintf("kernel %s has no module for Binder, and its configuration is not known (%v)", release, err), build + release
	case config[optionFS] == "y" && module != "":
		return "the module " + module + " is not loaded", "modprobe " + module
	case config[optionFS] == "y" && config[optionIPC] == "m":
		return "Binder is a module, but it is not in /lib/modules/" + release,
			"install the package with the other modules of kernel " + release + ", then modprobe binder_linux"
	case config[optionIPC] != "":
		return fmt.Sprintf("%s says %s=%s, but %s is not set", source, optionIPC, config[optionIPC], optionFS), build + release
	}
	return fmt.Sprintf("%s says that %s is not set", source, optionIPC), build + release
}

// kernelConfig reads the options that matter from wherever the running kernel's configuration is.
func kernelConfig(root fs.FS, release string) (config map[string]string, source string, err error) {
	for _, name := range []string{"proc/config.gz", "boot/config-" + release, path.Join("lib/modules", release, "config")} {
		text, err := fs.ReadFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && strings.HasSuffix(name, ".gz") {
			text, err = gunzip(text)
		}
		if err != nil {
			return nil, "", fmt.Errorf("/%s: %w", name, err)
		}
		config := map[string]string{}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if key, value, ok := strings.Cut(lines.Text(), "="); ok && (key == optionIPC || key == optionFS) {
				config[key] = value
			}
		}
		return config, "/" + name, lines.Err()
	}
	return nil, "", errors.New("neither /proc/config.gz nor /boot/config-" + release)
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// findModule returns the name of the module for Binder that is installed for the kernel, "" if none is.
func findModule(root fs.FS, release string) string {
	text, err := fs.ReadFile(root, path.Join("lib/modules", release, "modules.dep"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		file, _, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		if name = strings.ReplaceAll(name, "-", "_"); slices.Contains(moduleNames, name) {
			return name
		}
	}
	return ""
}
