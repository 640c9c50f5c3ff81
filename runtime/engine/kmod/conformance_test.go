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
	})
}
