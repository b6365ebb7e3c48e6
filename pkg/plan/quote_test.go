package plan

import (
	"os/exec"
	"strings"
	"testing"
)

// TestQuote: a shell reads each name as it is, and a terminal carries nothing out of what is printed.
func TestQuote(t *testing.T) {
	for _, name := range []string{"can0", "-can0", "a b", "it's", "$(reboot)", "\x1b[31mx", "\u202ex'y\"z", "a\\b\x07", ""} {
		quoted := Quote(name)
		if strings.ContainsAny(quoted, "\x1b\x07\u202e") {
			t.Errorf("%q: %q", name, quoted)
		}
		out, err := exec.Command("bash", "-c", "printf %s "+quoted).Output()
		if err != nil || string(out) != name {
			t.Errorf("%s: %q, %v, want %q", quoted, out, err, name)
		}
	}
}
