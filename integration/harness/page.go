package harness

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// PageLines are the lines of the first block in a section of a page.
func PageLines(t *testing.T, page, heading string) []string {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	section := regexp.MustCompile(`(?m)^#+ ` + regexp.QuoteMeta(heading) + "$(?s:.*?)^```\n((?s:.*?))^```$").FindStringSubmatch(string(content))
	if section == nil {
		t.Fatalf("%s: no block below %s", page, heading)
	}
	return strings.Split(strings.TrimSpace(section[1]), "\n")
}

// Typist runs lines as a user types them: the shell finds our programs, sudo, which is root already, and no systemd.
type Typist struct {
	t    *testing.T
	path string
}

// NewTypist is a typist with sudo and systemctl that do nothing of their own.
func NewTypist(t *testing.T) Typist {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"sudo": `exec "$@"`, "systemctl": "true"} {
		Write(t, filepath.Join(dir, name), "#!/bin/sh\n"+text+"\n")
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Typist{t, dir + ":" + BinDir(t) + ":/usr/sbin:/usr/bin:/sbin:/bin"}
}

// Try runs a line; logs end, and do not go on for ever.
func (y Typist) Try(line string) (string, error) {
	y.t.Helper()
	out, err := Try("env", "PATH="+y.path, "sh", "-ec", strings.Replace(line, "logs -f ", "logs ", 1))
	y.t.Logf("# %s\n%s", line, out)
	return out, err
}

// Must is Try for a line that must succeed.
func (y Typist) Must(line string) string {
	y.t.Helper()
	out, err := y.Try(line)
	if err != nil {
		y.t.Fatal(err)
	}
	return out
}

// Run runs lines. From the one that first sends a frame on, they are run again until the last says all words: a program
// in a container may not listen yet, which a person would not notice.
func (y Typist) Run(lines []string, words ...string) {
	y.t.Helper()
	first := len(lines) - 1
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "cansend") {
			first = i
		}
	}
	for _, line := range lines[:first] {
		y.Must(line)
	}
	missing := ""
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		out := ""
		for _, line := range lines[first:] {
			out = y.Must(line)
		}
		missing = ""
		for _, w := range words {
			if !strings.Contains(out, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
	}
	y.t.Fatalf("the last line does not say %q", missing)
}

// FromBoth are the frames of the quick starts, as candump shows them: from another container and from the host.
var FromBoth = []string{"123   [2]  11 22", "456   [1]  33"}
