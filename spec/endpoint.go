package spec

import (
	"net/netip"
	"path/filepath"
	"strings"
)

// maxSocketPath is sizeof(sockaddr_un.sun_path) less the terminating NUL.
const maxSocketPath = 107

const (
	legalSocket = "absolute paths without . or .., at most 107 bytes"
	legalTCP    = "ADDRESS:PORT on a loopback address, such as 127.0.0.1:6379 or [::1]:6379"
	legalShared = "absolute paths without . or .."

	legalPrivate = "absolute paths of directories without . or .., none within another, with no socket or shared path in them"
)

// ParseSocket checks the path of a unix socket.
func ParseSocket(path string) (Endpoint, error) {
	switch {
	case strings.HasPrefix(path, "@"):
		return Endpoint{}, bad(legalSocket, "%q is an abstract socket, which cannot be taken over from outside its network namespace", path)
	case len(path) > maxSocketPath:
		return Endpoint{}, bad(legalSocket, "%q is %d bytes long", path, len(path))
	}
	if problem := pathProblem(path); problem != "" {
		return Endpoint{}, bad(legalSocket, "%q %s", path, problem)
	}
	if top := topLevel(path); top == "/proc" || top == "/sys" {
		return Endpoint{}, bad(legalSocket, "no socket can be bound under %s", top)
	}
	return Endpoint{Network: "unix", Address: path}, nil
}

// ParseTCP checks the address of a TCP port. Only a literal loopback address is accepted: the gate can name the
// app behind a connection only when both ends are on this host.
func ParseTCP(address string) (Endpoint, error) {
	ap, err := netip.ParseAddrPort(address)
	switch {
	case err != nil:
		return Endpoint{}, bad(legalTCP, "%q is not an address and port", address)
	case !ap.Addr().IsLoopback() || ap.Addr().Is4In6() || ap.Addr().Zone() != "":
		return Endpoint{}, bad(legalTCP, "%s is not a loopback address", ap.Addr())
	case ap.Port() == 0:
		return Endpoint{}, bad(legalTCP, "port 0 names no port")
	}
	return Endpoint{Network: "tcp", Address: ap.String()}, nil
}

func (e Endpoint) String() string { return e.Address }

// pathProblem says what keeps path from being absolute and clean, or "".
func pathProblem(path string) string {
	switch {
	case strings.ContainsRune(path, 0):
		return "contains a NUL byte"
	case !filepath.IsAbs(path):
		return "is not absolute"
	case filepath.Clean(path) != path:
		return "is not in its shortest form, which is " + filepath.Clean(path)
	case path == "/":
		return "is the root directory"
	}
	return ""
}

// topLevel returns "/run" for "/run/a/b".
func topLevel(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return "/" + first
}
