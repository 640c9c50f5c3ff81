package check

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/engine"
)

// Real services with their listeners declared and their output on a pipe have no blocker: neither after the
// first client nor after the second.
func TestRealServices(t *testing.T) {
	for _, test := range []struct {
		name    string
		network string
		start   func(t *testing.T, address string) *exec.Cmd
		holds   []Kind // besides the listener and standard output
		request string
	}{
		{"redis", "unix", redis, []Kind{KindEpoll, KindPipe}, "PING\r\n"},
		{"redis tcp", "tcp", redisTCP, []Kind{KindEpoll, KindPipe}, "PING\r\n"},
		{"memcached", "unix", memcached, []Kind{KindEpoll, KindEventfd, KindPipe}, "version\r\n"},
		{"nginx", "unix", nginx, []Kind{KindEpoll, KindEventfd}, "GET / HTTP/1.0\r\n\r\n"},
		{"python socketserver", "unix", pythonSocketserver, nil, "hello\n"},
		{"python asyncio", "unix", pythonAsyncio, []Kind{KindEpoll, KindSocketPair}, "hello\n"},
		{"go http", "tcp", goHTTP, []Kind{KindEpoll, KindEventfd}, "GET / HTTP/1.0\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address := filepath.Join(t.TempDir(), "s")
			if test.network == "tcp" {
				address = "127.0.0.1:" + freePort(t)
			}
			pid := startService(t, test.start(t, address))
			declared := Options{Deep: true, Listeners: []engine.Address{{Network: test.network, Address: address}}}
			// An answer says that the service has started up: its socket takes connections before.
			for _, when := range []string{"fresh", "warm"} {
				eventually(t, "an answer at "+address, func() bool { return answers(test.network, address, test.request) })
				eventually(t, "the end of the connection", func() bool { return connections(inspect(t, pid, declared)) == 0 })
				report := inspect(t, pid, declared)
				t.Log(when)
				wantBlockers(t, report)
				wantKinds(t, report, test.holds)
			}
			undeclared := inspect(t, pid, Options{})
			wantBlockers(t, undeclared, `fd \d+ \(.* listening on `+regexp.QuoteMeta(address)+`\)`)
		})
	}
}

// answers tells whether the service has something to say to a request.
func answers(network, address, request string) bool {
	c, err := net.Dial(network, address)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 4096)) // an error comes with no byte
	return n > 0
}

// connections counts sockets that neither listen nor are internal.
func connections(report *Report) int {
	n := 0
	for _, fd := range report.FDs {
		if fd.Kind == KindSocket {
			n++
		}
	}
	return n
}

func wantKinds(t *testing.T, report *Report, want []Kind) {
	t.Helper()
	listeners := 0
	for _, fd := range report.FDs {
		if fd.Kind == KindListener && fd.Listener == 0 {
			listeners++
		}
		want = slices.DeleteFunc(slices.Clone(want), func(k Kind) bool { return k == fd.Kind })
	}
	if listeners != 1 || len(want) > 0 {
		t.Errorf("%d listeners; not found: %v; all: %+v", listeners, want, report.FDs)
	}
}

// startService starts cmd with its output on a pipe.
func startService(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	output := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed: its status says nothing
		if t.Failed() {
			t.Logf("output of %v:\n%s", cmd.Args, output)
		}
	})
	return cmd.Process.Pid
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func redis(t *testing.T, address string) *exec.Cmd {
	return exec.Command(program(t, "redis-server"), "--port", "0", "--unixsocket", address, "--save", "", "--dir", filepath.Dir(address))
}

func redisTCP(t *testing.T, address string) *exec.Cmd {
	_, port, _ := strings.Cut(address, ":")
	return exec.Command(program(t, "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
}

func memcached(t *testing.T, address string) *exec.Cmd {
	return exec.Command(program(t, "memcached"), "-u", "root", "-s", address)
}

func nginx(t *testing.T, address string) *exec.Cmd {
	dir := filepath.Dir(address)
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr; events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/g; server { listen unix:%[2]s; location / { return 200 "ok"; } } }`, dir, address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.Command(program(t, "nginx"), "-c", config, "-e", "stderr")
}

func python(t *testing.T, script, address string) *exec.Cmd {
	return exec.Command(program(t, "python3"), "-c", script, address)
}

func pythonSocketserver(t *testing.T, address string) *exec.Cmd {
	return python(t, `
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
`, address)
}

func pythonAsyncio(t *testing.T, address string) *exec.Cmd {
	return python(t, `
import asyncio, sys
async def handle(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
async def main():
    async with await asyncio.start_unix_server(handle, sys.argv[1]) as server:
        await server.serve_forever()
asyncio.run(main())
`, address)
}

func goHTTP(t *testing.T, address string) *exec.Cmd {
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "server")
	text := `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	fmt.Println(http.ListenAndServe(os.Args[1], nil))
}
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program(t, "go"), "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exec.Command(binary, address)
}
