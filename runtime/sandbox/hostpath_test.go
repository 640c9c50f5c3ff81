package sandbox

import (
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

func TestHostPath(t *testing.T) {
	bind := func(source, destination string) *configs.Mount {
		return &configs.Mount{Source: source, Destination: destination, Flags: unix.MS_BIND | unix.MS_REC}
	}
	mounts := []*configs.Mount{
		{Destination: "/run", Device: "tmpfs"},
		bind("/vol", "/run/redis/"),
		bind("/etc", "/etc"),
		bind("/other", "/run/redis/sub"),
		bind("/gone", "/hidden/deep"),
		{Destination: "/hidden", Device: "tmpfs"},
		bind("/one", "/run/redis2"),
	}
	for path, want := range map[string]string{
		"/run/redis/r.sock":     "/vol/r.sock",
		"/run/redis/sub/r.sock": "/other/r.sock",
		"/run/redis2/r.sock":    "/one/r.sock",
		"/run/redis":            "/vol",
		"/etc/x":                "/etc/x",
		"/run/redis3/r.sock":    "",
		"/run/r.sock":           "",
		"/hidden/deep/r.sock":   "",
		"/srv/r.sock":           "",
	} {
		if got, ok := hostPath(mounts, path); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", path, got, ok, want)
		}
	}
	if got, ok := hostPath([]*configs.Mount{bind("/host", "/")}, "/a/b"); got != "/host/a/b" || !ok {
		t.Errorf("below a mount at /: %q, %v", got, ok)
	}
}
