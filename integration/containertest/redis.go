package containertest

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Redis is an image whose annotations declare its redis-server as a service that listens on socket.
func Redis(name, socket string) Image {
	return Image{
		Name: name, Programs: []string{"redis-server", "redis-cli"}, Directories: []string{filepath.Dir(socket)},
		Annotations: map[string]string{"dev.corsa.socket": socket},
		Command: []string{
			"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--save", "", "--enable-debug-command", "yes",
		},
	}
}

// RedisAs has the redis-cli of user uid give a command at a socket of this host and returns what it prints, errors of the
// connection included.
func RedisAs(t *testing.T, uid int, socket string, command ...string) string {
	t.Helper()
	cmd := exec.Command("redis-cli", append([]string{"-s", socket}, command...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
