package integration

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/runtime/service"
)

func TestDirtyPagesOfACheckpoint(t *testing.T) {
	const page, written, others = 4096, 64, 64 // others: what redis needs for itself to answer a request
	s := serveRedis(t)
	a := s.app(2001)
	a.expect(fmt.Sprintf(":%d", 1024*page), "setrange", "k", strconv.Itoa(1024*page-1), "x")
	s.checkpoint(2001)
	for i := range written {
		a.expect(fmt.Sprintf(":%d", 1024*page), "setrange", "k", strconv.Itoa(16*i*page), "y")
	}
	var taken service.CheckpointView
	if err := json.Unmarshal([]byte(s.ok("checkpoint", "--json", "--app", "2001", s.id)), &taken); err != nil {
		t.Fatal(err)
	}
	if taken.DirtyPages == nil || *taken.DirtyPages < written || *taken.DirtyPages > written+others {
		t.Fatalf("checkpoint shows %+v, want %d dirty pages and few more", taken, written)
	}
	var h instance.History
	if err := json.Unmarshal([]byte(s.ok("log", "--json", s.id, "2001")), &h); err != nil {
		t.Fatal(err)
	}
	if c := h.Checkpoints; len(c) != 2 || c[0].DirtyPages == nil || *c[0].DirtyPages == 0 || c[1].DirtyPages == nil || *c[1].DirtyPages != *taken.DirtyPages {
		t.Errorf("log --json: %+v", c)
	}
	if text := s.ok("log", s.id, "2001"); !strings.Contains(text, fmt.Sprintf(" %d pages ", *taken.DirtyPages)) {
		t.Errorf("log:\n%s", text)
	}
}
