package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// HostBundleOptions say how a program of the host is put into a sandbox.
type HostBundleOptions struct {
	Args     []string // the program, by path or by name in PATH, and its arguments
	Cwd      string   // absolute; "" means "/". One under a private directory is made there, empty
	Env      []string // "NAME=VALUE"; nil means a default PATH only
	Writable []string // absolute paths of existing directories or files that the program may change on the host
	Service  *Service // what is declared about it; nil makes an ordinary container
	Terminal bool

	// Who the program runs as. Only root may name somebody else than itself. Capabilities are kept for uid 0 only.
	UID, GID         uint32
	AdditionalGroups []uint32

	// PrivateNetwork gives the sandbox a network of its own, in which there is only a loopback device. A program
	// that listens on one of the service's TCP ports then does not hold that port of the host, which the gate needs.
	PrivateNetwork bool
}

// DefaultPath is the PATH of a program whose HostBundleOptions.Env is nil.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// HostBundle returns the configuration that runs a program of the host in a sandbox without an image, and the
// skeleton of its root file system. The caller creates the skeleton in a directory of its own and sets
// Root.Path, which HostBundle leaves empty; WriteBundle does both.
//
// The program sees the host's directories, read-only with everything that is mounted in them, and symbolic links
// as they are; regular files directly in the host's root are left out. It has a private /dev, /proc, /run, /tmp,
// and /var/tmp, which are empty at first, and a read-only /sys. What it may change on the host is:
//   - the paths in Writable, at the same place;
//   - the private directories of the service, until it is adopted; and
//   - the directory of each unix socket of the service, unless that lies in a private directory, where it is made.
//     A socket directly in a top-level directory such as /etc is refused unless that is in Writable.
//
// A program file that lies in a private directory, such as /tmp, is bound there by itself, read-only; scripts and
// other files are not seen and are to be declared in Writable.
//
// Namespaces for processes, mounts, IPC, host name and cgroups are private, the network is the host's unless
// PrivateNetwork is set. Limits (rlimits) are inherited. Privileges gained by executing a file are off
// (no_new_privs). For root the sandbox keeps the program from changing the host by mistake; it is no barrier
// against a malicious one, which the engine's need of CAP_SYS_ADMIN rules out.
//
// An option that cannot be met is an ErrInvalid that names it; all are reported at once.
func HostBundle(o HostBundleOptions) (*specs.Spec, Skeleton, error) {
	permitted, err := permittedCapabilities()
	if err != nil {
		return nil, Skeleton{}, err
	}
	host, err := readHost("/")
	if err != nil {
		return nil, Skeleton{}, err
	}
	if err := o.check(); err != nil {
		return nil, Skeleton{}, err
	}
	if o.Service != nil { // the program fills them before it is adopted
		o.Writable = slices.Concat(o.Writable, o.Service.Private)
	}
	mounts, err := host.mounts(&o)
	if err != nil {
		return nil, Skeleton{}, err
	}
	config := &specs.Spec{
		// Some runtimes refuse a newer version; the one newer thing here is a mount option, rro.
		Version: "1.0.2",
		Root:    &specs.Root{Readonly: true},
		Process: &specs.Process{
			Terminal:        o.Terminal,
			User:            specs.User{UID: o.UID, GID: o.GID, AdditionalGids: o.AdditionalGroups},
			Args:            o.Args,
			Env:             o.Env,
			Cwd:             o.Cwd,
			Capabilities:    hostCapabilities(o.UID, permitted),
			NoNewPrivileges: true,
		},
		Mounts: mounts,
		Linux:  hostLinux(o.PrivateNetwork),
	}
	if o.Env == nil {
		config.Process.Env = []string{DefaultPath}
	}
	if o.Cwd == "" {
		config.Process.Cwd = "/"
	}
	if o.Service != nil {
		config.Annotations = o.Service.Annotations()
	}
	return config, host.skeleton, nil
}

// hostLinux is the part of the configuration that is the same for all programs.
func hostLinux(privateNetwork bool) *specs.Linux {
	l := &specs.Linux{
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.CgroupNamespace},
		},
		Resources: &specs.LinuxResources{
			// The runtime adds the harmless devices of its default /dev.
			Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		},
		MaskedPaths: []string{
			"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
			"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
		},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	if privateNetwork {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return l
}

// check reports what is wrong with the options by themselves.
func (o *HostBundleOptions) check() error {
	var problems []error
	report := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if len(o.Args) == 0 || o.Args[0] == "" {
		report("no program is given")
	}
	for _, a := range slices.Concat(o.Args, o.Env) {
		if strings.ContainsRune(a, 0) {
			report("argument or environment variable %q contains a NUL byte", a)
		}
	}
	for _, e := range o.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			report("environment variable %q is not of the form NAME=VALUE", e)
		}
	}
	if o.Cwd != "" && !filepath.IsAbs(o.Cwd) {
		report("working directory %q is not absolute", o.Cwd)
	}
	writable := func(what, path string) {
		if problem := pathProblem(path); problem != "" {
			report("%s %q %s", what, path, problem)
		} else if _, err := os.Stat(path); err != nil {
			report("%s: %w; create it first", what, err)
		} else if top := topLevel(path); top == "/proc" || top == "/sys" || top == "/dev" {
			report("%s %q lies in %s, which the sandbox has for itself", what, path, top)
		}
	}
	for _, path := range o.Writable {
		writable("writable path", path)
	}
	if o.Service != nil {
		for _, path := range o.Service.Private {
			writable("private directory", path)
		}
		if err := o.Service.Validate(); err != nil {
			problems = append(problems, err)
		}
	}
	if uid := os.Geteuid(); uid != 0 && int(o.UID) != uid {
		report("only root can run a program as user %d", o.UID)
	}
	return errors.Join(problems...)
}

// program is the file that Args[0] names on the host, or "" if there is none: then starting it gives the error.
func (o *HostBundleOptions) program() string {
	name := o.Args[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join("/", o.Cwd, name)
		}
		return filepath.Clean(name)
	}
	env := o.Env
	if env == nil {
		env = []string{DefaultPath}
	}
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				if file := filepath.Join(dir, name); filepath.IsAbs(file) && isProgram(file) {
					return file
				}
			}
		}
	}
	return ""
}

func isProgram(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}
