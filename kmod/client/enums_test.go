package client

import (
	"testing"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// TestEnumerations asserts that this package has a name for every value that the header had when it was written, in
// words that help.
func TestEnumerations(t *testing.T) {
	if n := int(refuseLast) - 1; n != uapi.RefusalMax || len(kinds) != n {
		t.Errorf("%d kinds of refusal, %d of them described, the header has %d", n, len(kinds), uapi.RefusalMax)
	}
	for k := RefusalKind(1); k < refuseLast; k++ {
		if d := kinds[k]; d.what == "" || d.why == "" || d.wayOut == "" {
			t.Errorf("refusal %d is not described: %+v", k, d)
		}
	}
	if len(eventNames)-1 != uapi.EventMax || EventBinderDue != uapi.EventMax {
		t.Errorf("%d events, the header has %d", len(eventNames)-1, uapi.EventMax)
	}
	if opDup != uapi.FDOpMax || CrashStandby != uapi.CrashMax || int(HistActivate) != uapi.HistCount-1 || KeyCgroup != uapi.BinderKeyMax {
		t.Error("operations, policies or histograms are not those of the header")
	}
}
