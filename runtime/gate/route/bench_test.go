package route

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkConnect is what socket() and connect() cost, in turns: without a program, with one that has nothing to do with
// the name, and led by it to a path and to an abstract name.
func BenchmarkConnect(b *testing.B) {
	if testCgroup == "" {
		b.Skip("needs root and a cgroup2 mount")
	}
	dir := b.TempDir()
	bpf := b.TempDir()
	if err := unix.Mount("corsa-test", bpf, "bpf", 0, "mode=0700"); err != nil {
		b.Skip(err)
	}
	defer func() { _ = unix.Unmount(bpf, 0) }()
	for _, name := range []string{"/public", "/other", "/own"} {
		discard(b, dir+name)
	}
	discard(b, "@"+dir)
	r, err := Open(Config{ID: "bench", Public: []string{dir + "/public"}, Pins: bpf, Cgroup: testCgroup})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := errors.Join(r.Close(), Remove("bench", bpf)); err != nil {
			b.Error(err)
		}
	}()
	kinds := []struct {
		name, cgroup, connect, to string
	}{
		{"none", filepath.Dir(testCgroup), dir + "/public", dir + "/own"},
		{"other", testCgroup, dir + "/other", dir + "/own"},
		{"path", testCgroup, dir + "/public", dir + "/own"},
		{"abstract", testCgroup, dir + "/public", "@" + dir},
	}
	const round = 100
	took := make([][]time.Duration, len(kinds))
	for b.Loop() {
		for i, k := range kinds {
			if err := join(k.cgroup); err != nil {
				b.Fatal(err)
			}
			if err := r.Set(uint32(os.Geteuid()), []string{k.to}); err != nil {
				b.Fatal(err)
			}
			r.Beat()
			sa := &unix.SockaddrUnix{Name: k.connect}
			for range round {
				before := time.Now()
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = unix.Connect(fd, sa)
				}
				took[i] = append(took[i], time.Since(before))
				if err != nil {
					b.Fatal(err)
				}
				_ = unix.Close(fd)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, k := range kinds {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Nanoseconds()), k.name+"-p50-ns")
		b.ReportMetric(float64(took[i][0].Nanoseconds()), k.name+"-min-ns")
	}
}

// discard listens on name and closes what comes.
func discard(b *testing.B, name string) {
	b.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
}
