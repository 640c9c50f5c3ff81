package kmod

import (
	"testing"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/enginetest"
)

func TestConformance(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	enginetest.Run(t, func(*testing.T) engine.Engine { return New() }, enginetest.Options{
		Refuses: map[string]string{
			"epoll-stale": "epoll entry", "mlock": "mapping", "pages": "mapping", "pending": "signal", "sharedanon": "mapping", "socketpair-dgram": "socket pair",
		},
		Common: map[string]string{
			"attrs":  "affinity, nice value and timer slack belong to the thread, which all instances share",
			"comm":   "the name belongs to the thread, which all instances share",
			"limits": "resource limits belong to the process, which all instances are",
		},
	})
}
