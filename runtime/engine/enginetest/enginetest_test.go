package enginetest

import (
	"strings"
	"testing"
)

// The programs have to pass without any engine, or nothing that the suite says about an engine means anything.
func TestProgramsAlone(t *testing.T) {
	s := &suite{build: newBuilder(t)}
	for _, dir := range []string{"state", "refuse"} {
		for _, p := range mustPrograms(t, dir) {
			t.Run(dir+"/"+p.name, func(t *testing.T) {
				if what := s.lacks(t, p); what != "" {
					t.Logf("not tested: this machine lacks %s", what)
					return
				}
				pr := s.start(t, p, launch{})
				c := pr.dial(t, 0)
				defer c.close()
				sum := uint64(0)
				c.verify(sum)
				for _, n := range []uint64{7, 1, 30, 5} {
					c.mutate(n)
					sum += n
					c.verify(sum)
				}
				for i := range p.listen {
					other := pr.dial(t, i)
					if via := other.number("via"); via != uint64(i) {
						t.Errorf("listener %d answers as %d", i, via)
					}
					other.close()
				}
			})
		}
	}
}

// Each program has to notice the damage that it stands guard against.
func TestProgramsCanFail(t *testing.T) {
	s := &suite{build: newBuilder(t)}
	for _, p := range mustPrograms(t, "state") {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel() // some wait long before they complain
			if what := s.lacks(t, p); what != "" {
				t.Logf("not tested: this machine lacks %s", what)
				return
			}
			c := s.start(t, p, launch{}).dial(t, 0)
			defer c.close()
			c.mutate(11)
			if reply := c.ask("spoil"); reply != "ok" {
				t.Fatalf("spoil: %s", reply)
			}
			if reply := c.ask("verify"); !strings.HasPrefix(reply, "FAIL: ") {
				t.Fatalf("verify of a spoilt state: %s", reply)
			}
		})
	}
}

// TestConformanceReport prints, with -v, what becomes of which object with which engine.
func TestConformanceReport(t *testing.T) {
	table, err := Report()
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table)
}
