package cli

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// completions are the values of flags that have a few. A name that ends in "=" takes something behind it.
var completions = map[string][]string{
	"format":      {"table", "json"},
	"log-format":  {"text", "json"},
	"app-key":     words(spec.LegalAppKey),
	"engine":      words(spec.LegalEngine),
	"gate":        words(spec.LegalGate),
	"checkpoint":  words(spec.LegalCheckpoint),
	"on-crash":    words(spec.LegalCrash),
	"concurrency": words(spec.LegalConcurrency),
	"huge-pages":  words(spec.LegalHugePages),
	"path":        words(spec.LegalPath),
}

// words are the values of a text such as "stop, retry=N (N at least 1)": stop and retry=.
func words(legal string) []string {
	var list []string
	for _, item := range strings.Split(legal, ", ") {
		word, _, _ := strings.Cut(item, " ")
		if name, _, ok := strings.Cut(word, "="); ok {
			word = name + "="
		}
		list = append(list, word)
	}
	return list
}

// addCompletions has shells offer ids and values of flags.
func (g *globals) addCompletions(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && strings.Contains(cmd.Use+" ", " ID ") && cmd.Name() != "create" && cmd.Name() != "run" {
		cmd.ValidArgsFunction = g.completeID
	}
	for name, values := range completions {
		if cmd.Flags().Lookup(name) == nil && cmd.PersistentFlags().Lookup(name) == nil {
			continue
		}
		offer := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		}
		if err := cmd.RegisterFlagCompletionFunc(name, offer); err != nil {
			panic(err) // the flag is there, and is registered once
		}
	}
}

// completeID offers the ids under the state root as first argument. What cannot be read is not offered.
func (g *globals) completeID(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	root, err := filepath.Abs(g.Root)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	list, err := sandbox.List(root)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
