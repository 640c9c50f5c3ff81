package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/cli"
)

func TestEveryVerbHasAPage(t *testing.T) {
	root := cli.Tree()
	all := pages(root, "1.2.3")
	for _, c := range root.Commands() {
		page, ok := all["corsa-"+c.Name()+".8"]
		if want := !c.Hidden && c.Name() != "help"; ok != want {
			t.Errorf("%s: page: %t", c.Name(), ok)
		} else if want && !strings.Contains(all["corsa.8"], escape("corsa-"+c.Name())) {
			t.Errorf("corsa.8 does not refer to %s", c.Name())
		}
		if ok && !strings.Contains(page, "corsa 1.2.3") {
			t.Errorf("%s: no version", c.Name())
		}
	}
}

// What would be a request or an escape sequence is text.
func TestTextStaysText(t *testing.T) {
	cmd := &cobra.Command{Use: "x [flags]", Short: "Do .this", Long: ".so is text\n'and this\nback\\slash --flag\n\n  indented   text"}
	cmd.Flags().String("name", `a "b"`, "a `thing`\nin two lines")
	var b strings.Builder
	head(&b, cmd, "1")
	options(&b, "OPTIONS", cmd.Flags())
	page := b.String()
	for _, want := range []string{"\\&.so is text", "\\&'and this", "back\\eslash \\-\\-flag", "  indented   text", "\\fITHING\\fR", "a thing in two lines"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func TestPagesCanBeRendered(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skipf("groff is not installed: %v", err)
	}
	for name, text := range pages(cli.Tree(), "1") {
		cmd := exec.Command(groff, "-man", "-Tutf8", "-wall", "-z")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
