package integration

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// Managers of containers parse these lines; their order is runc's.
func TestVersion(t *testing.T) {
	c := newCorsa(t)
	text := c.ok("--version")
	lines := regexp.MustCompile(`^corsa version (\S+)\n(?:commit: (\S+)\n)?spec: \d+\.\d+\.\d+\ngo: go\S+\nlibseccomp: \d+\.\d+\.\d+\n$`)
	found := lines.FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("--version prints\n%s", text)
	}
	if again := c.ok("-v"); again != text {
		t.Errorf("-v prints\n%s", again)
	}
	var features struct {
		Corsa struct{ Version, Commit string }
	}
	if err := json.Unmarshal([]byte(c.ok("features")), &features); err != nil {
		t.Fatal(err)
	}
	if features.Corsa.Version != found[1] || features.Corsa.Commit != found[2] {
		t.Errorf("features says %+v, --version %s", features.Corsa, strings.Join(found[1:], " "))
	}
}
