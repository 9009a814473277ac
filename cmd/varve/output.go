package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// printer writes a command's result: a table for people, or one JSON document.
type printer struct {
	w    io.Writer
	json bool
}

func printerOf(cmd *cobra.Command) printer {
	asJSON, _ := cmd.Flags().GetBool("json") // absent: false
	return printer{w: cmd.OutOrStdout(), json: asJSON}
}

// value prints v as JSON, or calls text.
func (p printer) value(v any, text func(w io.Writer)) error {
	if p.json {
		enc := json.NewEncoder(p.w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	text(p.w)
	return nil
}

// table prints rows as JSON objects, or as aligned columns under the headings.
func (p printer) table(v any, headings string, rows func(w io.Writer)) error {
	return p.value(v, func(w io.Writer) {
		tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(tw, headings)
		rows(tw)
		_ = tw.Flush() // a write error to stdout shows at the process's end
	})
}

// typed tells whether a person types what is read.
func typed(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isTerminal(f)
}

// isTerminal tells whether a file is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
