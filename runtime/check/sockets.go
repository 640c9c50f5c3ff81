package check

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/unixdiag"
)

// socket is what a duplicate of a socket of the process tells.
type socket struct {
	domain, kind int
	listening    bool
	local, peer  string // "" unbound or unconnected
	connected    bool
	hungUp       bool
	onlyIPv6     bool // IPV6_V6ONLY
	owner        int  // process at the other end of a unix socket when it was made; 0 unknown
}

var families = map[int]string{
	unix.AF_UNIX: "unix", unix.AF_INET: "inet", unix.AF_INET6: "inet6", unix.AF_NETLINK: "netlink", unix.AF_PACKET: "packet",
	unix.AF_VSOCK: "vsock", unix.AF_ALG: "alg", unix.AF_BLUETOOTH: "bluetooth", unix.AF_CAN: "can", unix.AF_XDP: "xdp",
	unix.AF_TIPC: "tipc", unix.AF_RDS: "rds", unix.AF_KEY: "key", unix.AF_SMC: "smc", unix.AF_QIPCRTR: "qipcrtr",
}

var socketTypes = map[int]string{
	unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "seqpacket", unix.SOCK_RAW: "raw",
}

// name is "tcp", "udp", "unix stream", "netlink" and so on.
func (s *socket) name() string {
	inet := s.domain == unix.AF_INET || s.domain == unix.AF_INET6
	switch {
	case inet && s.kind == unix.SOCK_STREAM:
		return "tcp"
	case inet && s.kind == unix.SOCK_DGRAM:
		return "udp"
	case inet && s.kind == unix.SOCK_RAW:
		return "raw ip"
	case s.domain == unix.AF_UNIX:
		return "unix " + socketTypes[s.kind]
	}
	if family, ok := families[s.domain]; ok {
		return family
	}
	return fmt.Sprintf("address family %d", s.domain)
}

func (in *inspection) checkSocket(f *openFile) {
	f.Kind = KindSocket
	s, err := in.readSocket(f.FD.FD)
	if err != nil {
		in.block(f.object(f.Target), "the socket cannot be inspected: "+err.Error(), "run corsa as root on Linux 5.6 or later")
		return
	}
	stream := s.kind == unix.SOCK_STREAM
	carried := s.domain == unix.AF_UNIX || s.domain == unix.AF_INET || s.domain == unix.AF_INET6
	switch {
	case f.info.scmFDs > 0:
		in.block(f.object(s.name()+" socket"), fmt.Sprintf("%d descriptors are in flight in it", f.info.scmFDs), "let the service receive them")
	case carried && stream && s.listening:
		in.checkListener(f, s)
	case s.domain == unix.AF_UNIX && s.connected:
		in.checkUnixConnection(f, s)
	case carried && stream && s.connected:
		in.block(f.object(fmt.Sprintf("%s %s -> %s", s.name(), s.local, s.peer)), "it is connected to a peer outside, which would talk to all instances at once",
			"let the service connect when it needs to and close afterwards, or end the client's connection")
	case s.name() == "udp":
		in.block(f.object(strings.TrimSpace("udp "+s.local)), "datagrams are not connections: nothing says which app's instance they are for",
			"switch the service's UDP off (memcached: -U 0), or serve it apart")
	case carried && stream:
		in.block(f.object(strings.TrimSpace(s.name()+" socket "+s.local)), "it is neither connected nor listening, and an instance would not have it",
			"try again when the service has connected or closed it")
	case s.domain == unix.AF_UNIX:
		in.block(f.object(strings.TrimSpace(s.name()+" socket "+s.local)), "datagrams are not connections: nothing says which app's instance they are for",
			"let the service use a stream socket; for syslog, log to standard error")
	default:
		in.block(f.object(s.name()+" socket"), "sockets of this family cannot be copied", "run the service without it")
	}
}

func (in *inspection) checkListener(f *openFile, s *socket) {
	f.Kind = KindListener
	f.Target = s.local
	for i, address := range in.opts.Listeners {
		exact, covered := in.matches(s, address)
		if !exact && !covered {
			continue
		}
		f.Listener = i
		if twin := in.listenerTwin(f); twin != nil {
			in.block(f.object(s.name()+" listening on "+s.local), fmt.Sprintf("fd %d is another socket for the declared address %s (SO_REUSEPORT, or a wildcard)",
				twin.FD.FD, address.Address), "configure the service to listen there once")
			return
		}
		if !exact {
			in.note(f.object(s.name()+" "+s.local), fmt.Sprintf("it listens on all addresses; only %s leads to instances", address.Address))
		}
		return
	}
	in.block(f.object(s.name()+" listening on "+s.local), "it is not declared, so clients of it would reach the original service, not an instance",
		s.declareHint())
}

// listenerTwin is the socket that stands for the declared address of f, if that is another one: the first in the
// table. Duplicates of one socket have one inode.
func (in *inspection) listenerTwin(f *openFile) *openFile {
	for _, other := range in.table {
		if other.Kind == KindListener && other.Listener == f.Listener {
			if other.Inode == f.Inode {
				return nil
			}
			return other
		}
	}
	return nil
}

// declareHint says how a listening socket is declared, if it can be.
func (s *socket) declareHint() string {
	const otherwise = "or configure the service not to listen there"
	if s.domain == unix.AF_UNIX {
		if !strings.HasPrefix(s.local, "/") {
			return "let the service listen on an absolute path, and declare that"
		}
		return fmt.Sprintf("declare it: --socket %s; %s", s.local, otherwise)
	}
	address, err := netip.ParseAddrPort(s.local)
	switch {
	case err == nil && address.Addr().IsUnspecified() && s.onlyIPv6:
		return fmt.Sprintf("declare it: --tcp [::1]:%d; %s", address.Port(), otherwise)
	case err == nil && address.Addr().IsUnspecified():
		return fmt.Sprintf("declare it: --tcp 127.0.0.1:%d; %s", address.Port(), otherwise)
	case err == nil && !address.Addr().IsLoopback():
		return "let the service listen on a loopback address, and declare that"
	}
	return fmt.Sprintf("declare it: --tcp %s; %s", s.local, otherwise)
}

// matches compares a listening socket with a declared address; covered means that the socket listens on all addresses
// and the declared one is among them.
func (in *inspection) matches(s *socket, address engine.Address) (exact, covered bool) {
	if s.domain == unix.AF_UNIX {
		return address.Network == "unix" && in.sameUnixName(s.local, address.Address), false
	}
	if address.Network != "tcp" {
		return false, false
	}
	want, errWant := netip.ParseAddrPort(address.Address)
	have, errHave := netip.ParseAddrPort(s.local)
	if errWant != nil || errHave != nil || want.Port() != have.Port() {
		return false, false
	}
	a, b := want.Addr().Unmap(), have.Addr().Unmap()
	if a == b {
		return true, false
	}
	// A wildcard of IPv6 takes IPv4 connections too, unless the socket is told otherwise.
	return false, have.Addr().IsUnspecified() && have.Addr().Is4() == a.Is4() || have.Addr() == netip.IPv6Unspecified() && !s.onlyIPv6
}

// sameUnixName allows for names that the service bound relative to its working directory or through symbolic links.
func (in *inspection) sameUnixName(bound, declared string) bool {
	if bound == declared {
		return true
	}
	if strings.HasPrefix(bound, "@") || bound == "" {
		return false
	}
	base := in.dir + "/root"
	if !strings.HasPrefix(bound, "/") {
		base = in.dir + "/cwd"
	}
	var a, b unix.Stat_t
	if unix.Stat(base+"/"+bound, &a) == nil && unix.Stat(in.dir+"/root"+declared, &b) == nil {
		return a.Dev == b.Dev && a.Ino == b.Ino
	}
	return path.Clean(bound) == path.Clean(declared)
}

// unixPeer is the inode number of the socket at the other end of a unix socket, 0 if that end is closed.
func (in *inspection) unixPeer(inode uint64) (uint64, error) {
	fd, err := unixdiag.Open(in.pid)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	s, err := unixdiag.Ask(fd, inode, make([]byte, unixdiag.ReplySize))
	return s.Peer, err
}

func (in *inspection) checkUnixConnection(f *openFile, s *socket) {
	peer, err := in.unixPeer(f.Inode)
	internal := false
	if err == nil && peer != 0 {
		for _, other := range in.table {
			internal = internal || other.Inode == peer && strings.HasPrefix(other.Target, "socket:")
		}
	}
	f.Internal = internal
	switch {
	case internal && s.local == "" && s.peer == "" && (s.kind == unix.SOCK_STREAM || !in.inPlace()):
		f.Kind = KindSocketPair
	case internal && (s.local != "" || s.peer != ""):
		in.block(f.object(s.name()+" connection to itself, "+s.local+s.peer), "a connection of the service to its own listening socket is not copied",
			"let the service use a socket pair or a pipe")
	case internal:
		f.Kind = KindSocketPair
		in.block(f.object(s.name()+" socket pair"), "only stream socket pairs are copied", "use the fork engine, or let the service use a stream socket pair, a pipe or an eventfd")
	case s.hungUp:
		in.block(f.object(s.name()+" socket"), "its peer has closed it and the service has not noticed yet", "try again in a moment")
	case err != nil && s.peer == "":
		in.block(f.object(s.name()+" socket to "+s.whom()), "its peer cannot be told: "+err.Error(), "let the service close it, or use a kernel with CONFIG_UNIX_DIAG")
	default:
		in.block(f.object(s.name()+" socket to "+s.whom()), "it is connected to a peer outside, which would talk to all instances at once",
			"end that connection (for syslog or the journal: log to standard error)")
	}
}

// whom names the other end of a unix socket as well as it is known.
func (s *socket) whom() string {
	var parts []string
	if s.peer != "" {
		parts = append(parts, s.peer)
	}
	if s.owner > 0 {
		parts = append(parts, fmt.Sprintf("pid %d (%s)", s.owner, commOf(s.owner)))
	}
	if s.local != "" && s.peer == "" {
		parts = append(parts, "on "+s.local)
	}
	if len(parts) == 0 {
		return "an unknown peer"
	}
	return strings.Join(parts, " ")
}

// readSocket asks a duplicate of the socket. It shares the open file with the process and changes nothing in it.
func (in *inspection) readSocket(n int) (*socket, error) {
	fd, err := unix.PidfdGetfd(in.pidfd, n, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd: %w", err)
	}
	defer unix.Close(fd)
	s := &socket{}
	if s.domain, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return nil, fmt.Errorf("SO_DOMAIN: %w", err)
	}
	if s.kind, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, fmt.Errorf("SO_TYPE: %w", err)
	}
	// Families that cannot listen refuse the question.
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil {
		s.listening = listening != 0
	}
	if local, err := unix.Getsockname(fd); err == nil {
		s.local = addressText(local)
	}
	if peer, err := unix.Getpeername(fd); err == nil {
		s.connected = true
		s.peer = addressText(peer)
	}
	if s.domain == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		s.onlyIPv6 = err == nil && only != 0
	}
	if s.domain == unix.AF_UNIX && s.connected {
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			s.owner = int(cred.Pid)
		}
	}
	poll := []unix.PollFd{{Fd: int32(fd)}}
	if _, err := unix.Poll(poll, 0); err == nil {
		s.hungUp = poll[0].Revents&unix.POLLHUP != 0
	}
	return s, nil
}

func addressText(address unix.Sockaddr) string {
	switch a := address.(type) {
	case *unix.SockaddrUnix:
		if a.Name == "@" { // this is how a socket without a name comes back
			return ""
		}
		return a.Name
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port)).String()
	}
	return ""
}
