package vmtest

import (
	"strings"
	"testing"
)

// What a test binary says becomes the same tree: nested tests, names with slashes, failures, and what did not end.
func TestTree(t *testing.T) {
	top, err := tree(strings.NewReader(`{"Action":"start"}
{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/state/x"}
{"Action":"output","Test":"TestA/state/x","Output":"=== RUN   TestA/state/x\n"}
{"Action":"output","Test":"TestA/state/x","Output":"    a.go:1: said\n"}
{"Action":"pass","Test":"TestA/state/x","Elapsed":0.5}
{"Action":"run","Test":"TestA/state/y"}
{"Action":"skip","Test":"TestA/state/y"}
{"Action":"pass","Test":"TestA"}
{"Action":"run","Test":"TestB"}
{"Action":"run","Test":"TestB/deep"}
{"Action":"output","Test":"TestB/deep","Output":"panic: no\n"}
{"Action":"fail","Test":"TestB"}
{"Action":"fail"}
`))
	if err != nil {
		t.Fatal(err)
	}
	state := top.find("TestA/state")
	x, y := top.find("TestA/state/x"), top.find("TestA/state/y")
	if state.ran || state.unfinished() || len(state.children) != 2 {
		t.Errorf("the part of a name: %+v", state)
	}
	if x.action != "pass" || x.elapsed != 0.5 || x.said() != "    a.go:1: said" || y.action != "skip" {
		t.Errorf("subtests: %+v, %+v", x, y)
	}
	if a := top.find("TestA"); a.failed() || a.action != "pass" {
		t.Errorf("a test that passed: %+v", a)
	}
	if deep := top.find("TestB/deep"); !deep.unfinished() || !top.failed() {
		t.Errorf("a test that did not end: %+v", deep)
	}
	top, err = tree(strings.NewReader(`{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/x"}
{"Action":"fail","Test":"TestA/x"}
{"Action":"fail","Test":"TestA"}
{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/x"}
{"Action":"pass","Test":"TestA/x"}
{"Action":"pass","Test":"TestA"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(top.children) != 2 || top.children[0].children[0].action != "fail" || top.find("TestA/x").action != "pass" || !top.failed() {
		t.Errorf("a test that was run twice: %+v", top)
	}
	if _, err := tree(strings.NewReader("{not json")); err == nil {
		t.Error("nonsense was taken for events")
	}
}
