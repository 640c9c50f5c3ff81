package fork

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// BenchmarkPrivateFiles takes checkpoints of an instance that changes a few bytes of its files before each, and branches
// them. p50 and p99 are in microseconds.
func BenchmarkPrivateFiles(b *testing.B) {
	for _, files := range []struct {
		name  string
		n, kb int
	}{{"none", 0, 0}, {"2x8KiB", 2, 8}, {"1x64MiB", 1, 64 << 10}} {
		for _, where := range []string{"", "/dev/shm"} {
			name := files.name
			if where != "" {
				name += "-in-memory"
			}
			b.Run(name, func(b *testing.B) { privateFilesBench(b, where, files.n, files.kb) })
			if files.n == 0 {
				break
			}
		}
	}
}

func privateFilesBench(b *testing.B, where string, n, kb int) {
	dir, err := os.MkdirTemp(where, "corsa-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	data := b.TempDir()
	python := fmt.Sprintf("D, n = %q, %d\nfs = [open(D + '/f%%d' %% i, 'w+b', 0) for i in range(n)]\n"+
		"for f in fs: f.write(os.urandom(%d << 10))\n"+
		"def touch(i): [os.pwrite(f.fileno(), b'%%d' %% i, 7 * i %% 8000) for f in fs]\n", data, n, kb)
	s := startEvaluatorWith(b, python, func(t *engine.Target) {
		if n > 0 {
			t.Private, t.Files = []string{data}, dir
		}
	})
	e := branchEvaluator(b, s, s.Base())
	var pause, total, branch []time.Duration
	for i := 0; b.Loop(); i++ {
		e.eval("touch(%d)", i)
		c := e.checkpoint(nil)
		pause, total = append(pause, c.Timing.Pause), append(total, c.Timing.Total)
		begun := time.Now()
		in, _, err := s.Branch(context.Background(), c.Image, nil)
		branch = append(branch, time.Since(begun))
		if err != nil {
			b.Fatal(err)
		}
		if err := in.Kill(); err != nil {
			b.Fatal(err)
		}
		if err := c.Image.Discard(); err != nil {
			b.Fatal(err)
		}
	}
	for name, all := range map[string][]time.Duration{"pause": pause, "checkpoint": total, "branch": branch} {
		slices.Sort(all)
		us := func(p int) float64 { return float64(all[len(all)*p/100].Nanoseconds()) / 1e3 }
		b.ReportMetric(us(50), name+"-p50")
		b.ReportMetric(us(99), name+"-p99")
	}
	e.end()
}
