package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// outputFormat is the value of --format: "table" or "json". --json is short for --format json.
type outputFormat string

// addFormatFlags gives a listing --format and --json.
func addFormatFlags(cmd *cobra.Command, f *outputFormat) {
	*f = "table"
	cmd.Flags().VarP(f, "format", "f", "table or json")
	cmd.Flags().BoolFunc("json", "same as --format json", func(string) error { return f.Set("json") })
}

func (f *outputFormat) String() string { return string(*f) }
func (f *outputFormat) Type() string   { return "FORMAT" }

func (f *outputFormat) Set(s string) error {
	if s != "table" && s != "json" {
		return fmt.Errorf("must be table or json")
	}
	*f = outputFormat(s)
	return nil
}

func (f *outputFormat) json() bool { return *f == "json" }

// printJSON writes v on one line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// printTable writes rows below header in aligned columns.
func printTable(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}
