package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// newGenerate is for make: it writes what is installed beside vxcanctl. (cobra/doc writes man pages, too, but with modules
// that nothing else needs.)
func newGenerate() *cobra.Command {
	return &cobra.Command{
		Use:    "generate DIR",
		Short:  "Write man pages and completions for shells",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, root := args[0], cmd.Root()
			root.InitDefaultHelpCmd()
			root.InitDefaultCompletionCmd()
			errs := []error{os.MkdirAll(dir, 0o755)}
			for _, c := range append(root.Commands(), root) {
				if c.IsAvailableCommand() && c.Name() != "help" && c.Name() != "completion" || c == root {
					errs = append(errs, os.WriteFile(filepath.Join(dir, pageName(c)+".8"), []byte(manPage(c)), 0o644))
				}
			}
			return errors.Join(append(errs,
				root.GenBashCompletionFileV2(filepath.Join(dir, "vxcanctl"), true),
				root.GenZshCompletionFile(filepath.Join(dir, "_vxcanctl")),
				root.GenFishCompletionFile(filepath.Join(dir, "vxcanctl.fish"), true))...)
		},
	}
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage is the man page of a command, from its help.
func manPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 8 \"\" \"vxcan %s\"\n", strings.ToUpper(roff(pageName(c))), roff(c.Root().Version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s", roffText(c.Long))
	if c.HasSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(sub.Name()), roff(sub.Short))
			}
		}
	}
	c.InitDefaultHelpFlag()
	fmt.Fprintf(&b, ".SH OPTIONS\n.nf\n%s.fi\n", roff(c.Flags().FlagUsages()))
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (8)\n", roff(pageName(c.Parent())))
	}
	return b.String()
}

// roffText is text with paragraphs, of which lines with blanks in front stay as they are.
func roffText(text string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		b.WriteString(".PP\n")
		for line := range strings.SplitSeq(paragraph, "\n") {
			if strings.HasPrefix(line, " ") {
				b.WriteString(".br\n")
			}
			b.WriteString(roff(strings.TrimSpace(line)) + "\n")
		}
	}
	return b.String()
}

// roff escapes what man would take for a request.
func roff(text string) string {
	text = strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return "\\&" + text
	}
	return text
}
