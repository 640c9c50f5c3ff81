package integration

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestLimits has one app's instance use up what the service may have of processes, or of memory. The other app keeps what it
// stored, and the greedy one comes back with what its checkpoint had. The limits are the whole service's: when memory is short the kernel
// kills the largest process, and sometimes, before that one's memory is free, another. Then that app has its checkpoint, too.
func TestLimits(t *testing.T) {
	for _, v := range []struct {
		name, line string
		kills      bool // the kernel may kill another app's instance
		limit      func(*specs.LinuxResources)
	}{
		{"processes", "bomb", false, func(r *specs.LinuxResources) {
			limit := int64(120)
			r.Pids = &specs.LinuxPids{Limit: &limit}
		}},
		{"memory", "eat", true, func(r *specs.LinuxResources) {
			limit := int64(96 << 20)
			r.Memory = &specs.LinuxMemory{Limit: &limit}
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			program := buildStore(t)
			c := &chaos{
				served: &served{corsa: newCorsa(t), id: "store", socket: filepath.Join(publicDir(t), "store.sock")},
				tally:  map[string]int{},
			}
			bundle := t.TempDir()
			c.ok("spec", "--service", "--bundle", bundle, "--socket", c.socket, "--", program, c.socket)
			editSpec(t, bundle, func(s *specs.Spec) {
				if s.Linux.Resources == nil {
					s.Linux.Resources = &specs.LinuxResources{}
				}
				v.limit(s.Linux.Resources)
			})
			c.quiet("run", "--detach", "--bundle", bundle, c.id)
			greedy, other := c.newApp(4000), c.newApp(4001)
			for range 5 {
				greedy.steps(7)
				greedy.checkpoint()
				greedy.steps(3)
				other.steps(5)
				other.checkpoint()
				other.disturbed = v.kills
				done := make(chan struct{})
				go func() {
					defer close(done)
					greedy.crash(v.line)
				}()
				for serving := true; serving; {
					select {
					case <-done:
						serving = false
					case <-time.After(5 * time.Millisecond):
					}
					other.steps(1)
					other.check()
					other.disturbed = v.kills
				}
				greedy.check()
				if t.Failed() {
					return
				}
			}
			if got := c.served.apps(); got["uid:4001"].Crashes != 0 && !v.kills || got["uid:4000"].Crashes != 5 {
				t.Errorf("crashes: %+v", got)
			}
		})
	}
}
