package main

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pages describes the tree: a page for the program and one for each verb that is not hidden, by file name.
func pages(root *cobra.Command, version string) map[string]string {
	all := map[string]string{}
	var verbs []*cobra.Command
	for _, c := range root.Commands() {
		if !c.Hidden && c.Name() != "help" {
			verbs = append(verbs, c)
		}
	}
	all[file(root)] = programPage(root, verbs, version)
	for _, c := range verbs {
		all[file(c)] = verbPage(root, c, version)
	}
	return all
}

// title is the name of a command's page: corsa-run.
func title(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func file(cmd *cobra.Command) string { return title(cmd) + ".8" }

func programPage(root *cobra.Command, verbs []*cobra.Command, version string) string {
	var b strings.Builder
	head(&b, root, version)
	b.WriteString(".SH VERBS\n")
	for _, group := range root.Groups() {
		fmt.Fprintf(&b, ".SS %s\n", quote(strings.TrimSuffix(group.Title, ":")))
		for _, c := range verbs {
			if c.GroupID == group.ID {
				fmt.Fprintf(&b, ".TP\n.BR %s (8)\n%s.\n", escape(title(c)), escape(c.Short))
			}
		}
	}
	options(&b, "OPTIONS", root.PersistentFlags())
	b.WriteString(`.SH EXIT STATUS
0, or 1 for a failure, or 255 if
.B exec
cannot execute the program.
.B run
and
.B exec
pass on the program's, or 128 plus the number of the signal that ended it.
.SH ENVIRONMENT
.TP
.B CORSA_CRIU
the CRIU to use, unless
.B \-\-criu
names one
.TP
.B XDG_RUNTIME_DIR
where the state is of a user other than root, in the directory
.I corsa
.SH FILES
.TP
.I /run/corsa
the state of root's containers and services
.TP
.I ../lib/corsa/criu
the CRIU that came with corsa, seen from the directory of the program
`)
	return b.String()
}

func verbPage(root, cmd *cobra.Command, version string) string {
	var b strings.Builder
	head(&b, cmd, version)
	options(&b, "OPTIONS", cmd.NonInheritedFlags())
	example(&b, cmd)
	for _, c := range cmd.Commands() {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(&b, ".SH %s\n%s\n.PP\n", quote(strings.ToUpper(c.CommandPath())), bold(c.UseLine()))
		paragraphs(&b, description(c))
		flags(&b, c.NonInheritedFlags())
		example(&b, c)
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (8),\nfor the options that all verbs have\n", escape(root.Name()))
	return b.String()
}

// head writes what every page begins with. There is no date: the same source makes the same page.
func head(b *strings.Builder, cmd *cobra.Command, version string) {
	fmt.Fprintf(b, ".TH %s 8 \"\" %s \"System Administration\"\n", quote(strings.ToUpper(title(cmd))), quote("corsa "+version))
	fmt.Fprintf(b, ".SH NAME\n%s \\- %s\n", escape(title(cmd)), escape(cmd.Short))
	fmt.Fprintf(b, ".SH SYNOPSIS\n%s\n", bold(cmd.UseLine()))
	b.WriteString(".SH DESCRIPTION\n")
	paragraphs(b, description(cmd))
}

func description(cmd *cobra.Command) string {
	if cmd.Long == "" {
		return cmd.Short + "."
	}
	return cmd.Long
}

func options(b *strings.Builder, heading string, set *pflag.FlagSet) {
	if set.HasAvailableFlags() {
		fmt.Fprintf(b, ".SH %s\n", heading)
		flags(b, set)
	}
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", f.Shorthand)
		}
		fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", escape(f.Name))
		if value != "" {
			fmt.Fprintf(b, " \\fI%s\\fR", escape(strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(value, "Array"), "s"))))
		}
		b.WriteString("\n" + escape(usage))
		if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" && !strings.Contains(usage, "(default") {
			fmt.Fprintf(b, " (default: %s)", escape(d))
		}
		b.WriteByte('\n')
	})
}

func example(b *strings.Builder, cmd *cobra.Command) {
	if cmd.Example == "" {
		return
	}
	b.WriteString(".SH EXAMPLE\n")
	literal(b, strings.Split(cmd.Example, "\n"))
}

// paragraphs writes text whose lines are filled, but for indented ones, which stay as they are.
func paragraphs(b *strings.Builder, text string) {
	var indented []string
	flush := func() {
		if len(indented) > 0 {
			literal(b, indented)
			b.WriteString(".PP\n")
			indented = nil
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "  ") {
			indented = append(indented, line)
			continue
		}
		flush()
		if line == "" {
			b.WriteString(".PP\n")
		} else {
			b.WriteString(escape(line) + "\n")
		}
	}
	flush()
}

func literal(b *strings.Builder, lines []string) {
	b.WriteString(".PP\n.nf\n")
	for _, line := range lines {
		b.WriteString(escape(line) + "\n")
	}
	b.WriteString(".fi\n")
}

// bold is a line in bold face.
func bold(s string) string { return "\\fB" + escape(s) + "\\fR" }

// quote is s as one argument of a request.
func quote(s string) string { return `"` + strings.ReplaceAll(escape(s), `"`, `\(dq`) + `"` }

// escape makes text out of s, whatever it begins with or contains. A hyphen stays one that can be copied into a shell.
func escape(s string) string {
	var b strings.Builder
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		b.WriteString(`\&`)
	}
	for _, r := range s {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '\n':
			b.WriteByte(' ')
		case r > unicode.MaxASCII: // what groff reads without a preprocessor is Latin-1
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
