package broker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// A transaction that does not come to its end is reported, once, with what others wait for; one after the other that does is not.
func TestStalls(t *testing.T) {
	b, apps, _ := newLanes(t, spec.Strict, "a", "b")
	var said bytes.Buffer
	log := logrus.New()
	log.SetOutput(&said)
	b.log = logrus.NewEntry(log)
	seen := map[instance.App]progress{}
	for range 3 {
		c, err := b.enter(apps[0])
		if err != nil {
			t.Fatal(err)
		}
		seen = b.stalls(seen)
		b.leave(apps[0], c)
	}
	if said.Len() > 0 {
		t.Errorf("nothing has stalled: %s", said.String())
	}
	held, err := b.enter(apps[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		seen = b.stalls(seen)
	}
	if text := said.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "turn=a") || !strings.Contains(text, "app=a") {
		t.Errorf("what has stalled is reported as %q", text)
	}
	b.leave(apps[0], held)
	seen = b.stalls(seen)
	b.stalls(seen)
	if n := strings.Count(said.String(), "\n"); n != 2 {
		t.Errorf("the end of the stall is reported as %q", said.String())
	}
}
