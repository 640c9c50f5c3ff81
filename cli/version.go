package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Set by the Makefile through -ldflags -X. A build without it takes what the Go tool recorded.
var (
	version string // "0.1.0"
	commit  string // of the source tree, with "-dirty" behind it if that had changes
)

// buildVersion is the version and the commit of this program; the commit is "" where nobody recorded it.
func buildVersion() (v, c string) {
	v, c = version, commit
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if v == "" {
		v = strings.TrimPrefix(info.Main.Version, "v")
	}
	if v == "" {
		v = "(devel)"
	}
	if c == "" {
		c = recordedCommit(info)
	}
	return v, c
}

func recordedCommit(info *debug.BuildInfo) string {
	values := map[string]string{}
	for _, setting := range info.Settings {
		values[setting.Key] = setting.Value
	}
	c := values["vcs.revision"]
	if c != "" && values["vcs.modified"] == "true" {
		c += "-dirty"
	}
	return c
}

// versionText is what --version prints: the lines of runc, since programs that drive runtimes parse them.
func versionText() string {
	v, c := buildVersion()
	var b strings.Builder
	fmt.Fprintf(&b, "corsa version %s\n", v)
	if c != "" {
		fmt.Fprintf(&b, "commit: %s\n", c)
	}
	fmt.Fprintf(&b, "spec: %s\ngo: %s\n", specs.Version, runtime.Version())
	if seccomp.Enabled {
		fmt.Fprintf(&b, "libseccomp: %s\n", libseccompVersion())
	}
	return b.String()
}

func libseccompVersion() string {
	major, minor, patch := seccomp.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
