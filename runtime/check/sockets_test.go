package check

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

func TestListeners(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	tcp := freePort(t)
	for _, test := range []struct {
		name     string
		args     []string
		object   string
		declared engine.Address
		other    engine.Address
		note     string
	}{
		{
			"unix",
			[]string{"unix_listen", socket},
			"unix stream listening on " + socket,
			engine.Address{Network: "unix", Address: socket},
			engine.Address{Network: "unix", Address: socket + "x"},
			"",
		},
		{
			"tcp",
			[]string{"tcp_listen", tcp},
			"tcp listening on 127.0.0.1:" + tcp,
			engine.Address{Network: "tcp", Address: "127.0.0.1:" + tcp},
			engine.Address{Network: "tcp", Address: "127.0.0.2:" + tcp},
			"",
		},
		{
			"wildcard",
			[]string{"tcp_listen", tcp, "any"},
			`tcp listening on 0.0.0.0:` + tcp,
			engine.Address{Network: "tcp", Address: "127.0.0.1:" + tcp},
			engine.Address{Network: "tcp", Address: "127.0.0.1:1"},
			"all addresses",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			pid := startHolder(t, nil, test.args[0], test.args[1:]...)
			object := regexp.QuoteMeta("fd 17 (" + test.object + ")")
			wantBlockers(t, inspect(t, pid, Options{}), object)
			wantBlockers(t, inspect(t, pid, Options{Listeners: []engine.Address{test.other}}), object)
			report := inspect(t, pid, Options{Listeners: []engine.Address{test.other, test.declared}})
			wantBlockers(t, report)
			for _, fd := range report.FDs {
				if fd.FD == 17 && (fd.Kind != KindListener || fd.Listener != 1) {
					t.Errorf("fd 17 = %+v", fd)
				}
			}
			if test.note != "" && !hasNote(report, test.note) {
				t.Errorf("no note %q in %v", test.note, report.Notes)
			}
		})
	}
}

// redis listens on two wildcards, one for each address family, unless it is told not to.
func TestWildcardsOfBothFamilies(t *testing.T) {
	number := freePort(t)
	pid := startService(t, exec.Command(program(t, "redis-server"), "--port", number, "--bind", "0.0.0.0", "::", "--save", "", "--dir", t.TempDir()))
	v4, v6 := engine.Address{Network: "tcp", Address: "127.0.0.1:" + number}, engine.Address{Network: "tcp", Address: "[::1]:" + number}
	eventually(t, "an answer", func() bool { return answers("tcp", v4.Address, "PING\r\n") })
	eventually(t, "the end of the connection", func() bool { return connections(inspect(t, pid, Options{})) == 0 })
	report := inspect(t, pid, Options{Listeners: []engine.Address{v4}})
	wantBlockers(t, report, `fd \d+ \(tcp listening on \[::\]:`+number+`\)`)
	if len(report.Blockers) == 1 && !strings.Contains(report.Blockers[0].WayOut, "--tcp "+v6.Address) {
		t.Errorf("way out %q", report.Blockers[0].WayOut)
	}
	wantBlockers(t, inspect(t, pid, Options{Listeners: []engine.Address{v4, v6}}))
}

func TestSharedPort(t *testing.T) {
	number := freePort(t)
	pid := startHolder(t, nil, "reuseport", number)
	wantBlockers(t, inspect(t, pid, Options{Listeners: []engine.Address{{Network: "tcp", Address: "127.0.0.1:" + number}}}),
		`fd 18 \(tcp listening on 127\.0\.0\.1:`+number+`\)`)
}

func TestConnections(t *testing.T) {
	outside := listen(t, "unix", filepath.Join(t.TempDir(), "out"))
	wantBlockers(t, inspect(t, startHolder(t, nil, "unix_connected", outside.Addr().String()), Options{}),
		regexp.QuoteMeta(fmt.Sprintf("fd 17 (unix stream socket to %s pid %d (%s))", outside.Addr(), os.Getpid(), commOf(os.Getpid()))))

	tcp := listen(t, "tcp", "127.0.0.1:0")
	wantBlockers(t, inspect(t, startHolder(t, nil, "tcp_connected", port(t, tcp.Addr())), Options{}),
		`fd 17 \(tcp 127\.0\.0\.1:\d+ -> `+regexp.QuoteMeta(tcp.Addr().String())+`\)`)

	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	number := port(t, packets.LocalAddr())
	packets.Close()
	wantBlockers(t, inspect(t, startHolder(t, nil, "udp", number), Options{}), `fd 17 \(udp 127\.0\.0\.1:`+number+`\)`)

	itself := filepath.Join(t.TempDir(), "self")
	wantBlockers(t, inspect(t, startHolder(t, nil, "unix_self", itself), Options{Listeners: []engine.Address{{Network: "unix", Address: itself}}}),
		`fd 18 \(unix stream connection to itself, .*\)`, `fd 19 \(unix stream connection to itself, .*\)`)
}

// A service in a network namespace of its own has its socket pairs looked up there.
func TestSocketPairInOtherNetworkNamespace(t *testing.T) {
	file := tempFile(t)
	pid := startHolder(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}, "clean", file, filepath.Dir(file))
	wantBlockers(t, inspect(t, pid, Options{}))
}
