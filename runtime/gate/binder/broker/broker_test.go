package broker_test

import (
	"testing"
)

// Every app has its own state, under one name, and each can be captured and restored.
func TestPrivateState(t *testing.T) {
	w := newWorld(t, nil)
	one, two, three := w.app(2001), w.app(2002), w.app(2003)
	for _, a := range []*app{one, two, three} {
		a.want("empty", "get")
	}
	one.want("ok", "set", "first")
	two.want("ok", "set", "second")
	one.want("first", "get")
	two.want("second", "get")
	three.want("empty", "get")
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("first", "get")
	one.want("ok", "set", "changed")
	one.want("changed", "get")
	two.want("second", "get")
	if err := w.restore("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("first", "get")
	two.want("second", "get")
	one.want("0", "deaths")
}
