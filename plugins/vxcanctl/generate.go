package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/lend"
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
				if hasPage(c) {
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

func hasPage(c *cobra.Command) bool {
	return !c.HasParent() || c.IsAvailableCommand() && c.Name() != "help" && c.Name() != "completion"
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
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n.nf\n")
		for line := range strings.Lines(c.Example + "\n") {
			b.WriteString(roff(line))
		}
		b.WriteString(".fi\n")
	}
	b.WriteString(".SH FILES\n")
	for _, f := range files {
		fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(f.path), roff(f.what))
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(append(pagesBeside(c), ".BR ip\\-link (8),", ".BR tc (8)"), "\n"))
	return b.String()
}

// pagesBeside are the man pages of the other commands, as requests of man(7).
func pagesBeside(c *cobra.Command) (requests []string) {
	for _, other := range append([]*cobra.Command{c.Root()}, c.Root().Commands()...) {
		if other != c && hasPage(other) {
			requests = append(requests, fmt.Sprintf(".BR %s (8),", roff(pageName(other))))
		}
	}
	return requests
}

// files are those that vxcanctl reads and writes, and those of its units.
var files = [...]struct{ path, what string }{
	{"/var/lib/cni/vxcan", "what the containers on each bus asked for, by boot and network namespace, and the locks of the buses"},
	{"/var/lib/prometheus/node-exporter/" + metricsFile, "metrics for node_exporter, by vxcan-metrics.timer"},
	{lend.ConsentsDir, "which buses are lent to whom, and with what policy"},
	{lend.Socket, "where users ask for a lent bus, by vxcan-lend.socket"},
	{"/run/docker.sock", "asked for the names of Docker's containers"},
	{"/usr/lib/udev/rules.d/90-vxcan.rules", "starts vxcan-heal@.service when a controller is plugged in"},
	{"/usr/lib/sysctl.d/40-vxcan.conf", "the queue for bursts of frames"},
	{"/usr/lib/modules-load.d/vxcan.conf", "the kernel modules that a bus needs, loaded at boot"},
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
