package fork

import (
	"testing"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/enginetest"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(*testing.T) engine.Engine { return New() }, enginetest.Options{})
}
