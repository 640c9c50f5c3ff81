package service

import (
	"testing"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// A checkpoint's dirty pages are those that differ from the parent that the history shows, even after the one that it
// was taken after has been discarded.
func TestDirtyPagesFollowTheParent(t *testing.T) {
	m, e, g := newTestMonitor(t, func(s *spec.Service) { s.History = 2 })
	ctx, app := t.Context(), instance.App("uid:1")
	enter(t, m, g, app)
	image := func(id instance.ID) *fakeImage {
		if id == instance.Base {
			return e.base
		}
		return m.holding(app).images[id].Image.(*fakeImage)
	}
	for range 4 {
		taken, err := m.checkpointNow(ctx, app, "")
		if err != nil {
			t.Fatal(err)
		}
		h, err := m.history(app)
		if err != nil {
			t.Fatal(err)
		}
		last := h.Checkpoints[len(h.Checkpoints)-1]
		if taken.DirtyPages == nil || *taken.DirtyPages != *last.DirtyPages {
			t.Errorf("checkpoint tells %v, the history %v", taken.DirtyPages, *last.DirtyPages)
		}
		for _, c := range h.Checkpoints {
			want := pages(image(c.ID), image(c.Parent))
			if c.DirtyPages == nil || *c.DirtyPages != want {
				t.Errorf("checkpoint %s on %s: %v dirty pages, want %d", c.ID, c.Parent, c.DirtyPages, want)
			}
		}
	}
}
