package socket

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// redis is a monitor with one redis-server that every app shares and that cannot be parked: it measures the gate's own cost.
type redis struct {
	*world
	f    *fake
	path string
}

func (r *redis) Instance(context.Context, instance.App) (engine.Instance, error) {
	return &always{r.f}, nil
}

type always struct{ *fake }

func (a *always) Dormant() bool            { return false }
func (a *always) Activate() error          { return nil }
func (a *always) Park(time.Duration) error { return nil }

func startRedis(b testing.TB) *redis {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		b.Skip("redis-server is not installed")
	}
	path := filepath.Join(b.TempDir(), "r.sock")
	cmd := exec.Command(bin, "--port", "0", "--unixsocket", path, "--save", "", "--daemonize", "no")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(pidfd) })
	for range 500 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return &redis{f: &fake{cmd: cmd, pidfd: pidfd, paths: []string{path}}, path: path}
}

// gatedRedis is a redis behind a gate, and the path at which the gate listens. Both end with the test.
func gatedRedis(tb testing.TB) (r *redis, public string) {
	tb.Helper()
	r = startRedis(tb)
	s := declare(tb.TempDir())
	s.AppKey = spec.AppKeyUID
	g, err := New(Config{Service: s, Monitor: r})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	public = s.Endpoints[0].Address
	for _, err := os.Stat(public); err != nil; _, err = os.Stat(public) {
		time.Sleep(time.Millisecond)
	}
	return r, public
}

// BenchmarkRedisGet reports the round trip of a GET on one connection, direct and through the gate, in the same run.
// Run it under taskset to have all parties on one CPU.
func BenchmarkRedisGet(b *testing.B) {
	r, public := gatedRedis(b)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		var direct, proxied [2][]float64
		for range 5 { // interleaved, since the machine's mood changes
			for _, x := range []struct {
				path string
				into *[2][]float64
			}{{r.path, &direct}, {public, &proxied}} {
				p50, p99 := roundTrips(b, x.path)
				x.into[0], x.into[1] = append(x.into[0], p50), append(x.into[1], p99)
			}
		}
		for _, x := range []*[2][]float64{&direct, &proxied} {
			slices.Sort(x[0])
			slices.Sort(x[1])
		}
		b.ReportMetric(direct[0][2], "direct-p50-µs")
		b.ReportMetric(direct[1][2], "direct-p99-µs")
		b.ReportMetric(proxied[0][2], "gate-p50-µs")
		b.ReportMetric(proxied[1][2], "gate-p99-µs")
		b.ReportMetric(proxied[0][2]/direct[0][2], "ratio-p50")
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(5*20_000*b.N), "allocs/request") // clients' start included
	b.ReportMetric(0, "ns/op")
}

// redis-benchmark, with many connections and pipelines, completes through the gate without an error.
func TestRedisBenchmark(t *testing.T) {
	bin, err := exec.LookPath("redis-benchmark")
	if err != nil {
		t.Skip("redis-benchmark is not installed")
	}
	_, public := gatedRedis(t)
	for _, args := range [][]string{{"-c", "50"}, {"-c", "16", "-P", "16"}, {"-c", "4", "-d", "300000", "-n", "500"}} {
		args = append([]string{"-s", public, "-n", "10000", "-t", "get,set", "-q"}, args...)
		cmd := exec.Command("timeout", append([]string{"30", bin}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "rror") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// roundTrips has another process measure, so that the two do not share a Go scheduler.
func roundTrips(b *testing.B, path string) (p50, p99 float64) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SOCKET_TEST_CLIENT="+path)
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Sscan(string(out), &p50, &p99); err != nil {
		b.Fatalf("%q: %v", out, err)
	}
	return p50, p99
}

// measure is the client process of roundTrips.
func measure(path string) {
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	n := 20_000
	if s := os.Getenv("SOCKET_TEST_N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	req := []byte("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
	buf := make([]byte, 64)
	all := make([]float64, 0, n)
	for i := range n + 1000 {
		t := time.Now()
		_, _, e1 := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&req[0])), uintptr(len(req)))
		k, _, e2 := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if e1 != 0 || e2 != 0 || !strings.HasPrefix(string(buf[:k]), "$-1") {
			fmt.Fprintln(os.Stderr, "no answer", e1, e2)
			os.Exit(1)
		}
		if i >= 1000 {
			all = append(all, float64(time.Since(t).Nanoseconds())/1000)
		}
	}
	slices.Sort(all)
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	fmt.Fprintln(w, all[n/2], all[n*99/100])
}
