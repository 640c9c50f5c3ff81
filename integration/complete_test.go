package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// What a shell offers behind the tabulator key.
func TestCompletion(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	c.ok("create", "-b", busyboxBundle(t, c, nil, "sleep", "1000"), id)
	for _, v := range []struct{ words, offered string }{
		{"st", "start state"},
		{"state ", id},
		{"kill ", id},
		{"create ", ""}, // a new one
		{"state " + id + " ", ""},
		{"serve --app-key ", "uid pid cgroup connection"},
		{"spec --on-crash ", "restore retry= stop"},
		{"list --format ", "table json"},
	} {
		words := strings.Split(v.words, " ")
		var names []string
		for line := range strings.Lines(c.ok(append([]string{"__complete"}, words...)...)) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if !strings.HasPrefix(name, ":") {
				names = append(names, name)
			}
		}
		if got := strings.Join(names, " "); got != v.offered {
			t.Errorf("%q: %q is offered, want %q", v.words, got, v.offered)
		}
	}
	script := c.ok("completion", "bash")
	if cmd := exec.Command("bash", "-n"); !strings.Contains(script, "__complete") {
		t.Error("no script for bash")
	} else if cmd.Stdin = strings.NewReader(script); cmd.Run() != nil {
		t.Error("bash cannot read its script")
	}
}
