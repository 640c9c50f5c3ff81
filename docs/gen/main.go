// Gen writes docs/cli, a page for every verb, from the command tree, and docs/conformance-engines.md from what the programs
// of the conformance suite declare: go generate ./docs/gen
package main

//go:generate go run -tags seccomp .

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/cli"
)

func main() {
	err := write(filepath.Join("..", "cli"))
	if err == nil {
		err = writeConformance(filepath.Join("..", "conformance-engines.md"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// write replaces the pages in dir.
func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for name, text := range pages(cli.Tree()) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages describes the tree: one page for each verb that is not hidden, and README.md, which lists them.
func pages(root *cobra.Command) map[string]string {
	all := map[string]string{}
	var index strings.Builder
	fmt.Fprintf(&index, "# %s\n\n%s\n\nExit codes: 0, 1 for a failure, 255 if `exec` cannot execute the program; `run` and `exec` pass on the program's.\n\n", root.Name(), text(root))
	index.WriteString("| verb | what it does |\n| --- | --- |\n")
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		fmt.Fprintf(&index, "| [%s](%s.md) | %s |\n", cmd.Name(), cmd.Name(), cmd.Short)
		all[cmd.Name()+".md"] = page(cmd)
	}
	fmt.Fprintf(&index, "\nFlags of all verbs, which stand before or behind the verb:\n\n```\n%s```\n", root.PersistentFlags().FlagUsages())
	all["README.md"] = index.String()
	return all
}

func page(cmd *cobra.Command) string {
	var b strings.Builder
	describe(&b, "#", cmd)
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			b.WriteString("\n")
			describe(&b, "##", c)
		}
	}
	b.WriteString("\n[All verbs and the flags that they share](README.md)\n")
	return b.String()
}

// describe writes what one command does under a heading of that level.
func describe(b *strings.Builder, level string, cmd *cobra.Command) {
	fmt.Fprintf(b, "%s %s\n\n%s\n\n```\n%s\n```\n", level, cmd.CommandPath(), text(cmd), cmd.UseLine())
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", cmd.Example)
	}
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(b, "\n```\n%s```\n", flags.FlagUsages())
	}
}

func text(cmd *cobra.Command) string {
	if cmd.Long == "" {
		return cmd.Short + "."
	}
	return cmd.Long
}
