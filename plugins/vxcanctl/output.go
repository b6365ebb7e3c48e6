package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Formats of the flag -o.
const (
	textFormat = "text"
	jsonFormat = "json"
	dotFormat  = "dot"
)

// documentVersion is the member "version" of JSON documents. It changes when a member goes or means something else.
const documentVersion = 1

// document is what a command says of buses in JSON.
type document[Bus any] struct {
	Version int   `json:"version"`
	Buses   []Bus `json:"buses"`
}

// addFormat adds the flag -o with the formats of a command, of which the first one is the default.
func addFormat(cmd *cobra.Command, formats ...string) *string {
	format := new(string)
	cmd.Flags().StringVarP(format, "output", "o", formats[0], "format: "+strings.Join(formats, " or "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if slices.Contains(formats, *format) {
			return run(cmd, args)
		}
		return fmt.Errorf("invalid output %q: want %s", *format, strings.Join(formats, " or "))
	}
	return format
}

// printer writes lines, and keeps what went wrong.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format+"\n", args...)
	p.err = errors.Join(p.err, err)
}

func writeJSON(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(document)
}

// style is what the place that a command writes to can show. The zero style is that of a pipe or a file.
type style struct {
	colour, unicode bool
	width, height   int // columns and lines of the terminal; 0 is no limit
}

func styleOf(w io.Writer) style {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return style{}
	}
	locale := strings.ToUpper(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	s := style{
		colour:  os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		unicode: strings.Contains(locale, "UTF-8") || strings.Contains(locale, "UTF8"),
	}
	s.width, s.height, _ = term.GetSize(int(file.Fd())) // a serial console does not know its size: 0
	return s
}

func (s style) mark(l level) string {
	sign := [...]string{"ok  ", "warn", "FAIL"}[l]
	if s.unicode {
		sign = [...]string{"√", "‼", "×"}[l]
	}
	return s.paint(l, sign)
}

func (s style) paint(l level, text string) string {
	if !s.colour {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", [...]int{32, 33, 31}[l], text)
}

type level int

const (
	fine level = iota
	warning
	failure
)

func (l level) String() string { return [...]string{"ok", "warning", "failure"}[l] }

// MarshalText is the level in JSON.
func (l level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// plain is a name from elsewhere on one line, with what a terminal would carry out written as Go does: \x1b.
func plain(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
