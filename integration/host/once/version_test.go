package once

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestVersion: every binary tells the version that make stamped into it. A linker flag that names no variable is no
// error, so that only the binaries show whether it worked.
func TestVersion(t *testing.T) {
	if os.Getenv(cantest.Promised) == "" {
		t.Skip("needs what make build builds: make test runs it")
	}
	dir := harness.BinDir(t)
	output := func(t *testing.T, name string, args ...string) string {
		cmd := exec.Command(filepath.Join(dir, name), args...)
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(append([]string{name}, args...), " "), err, out)
		}
		return string(out)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(output(t, "vxcan", "--version")), "vxcan ")
	if !ok || !regexp.MustCompile(`^\d+\.\d+\.\d+[-0-9a-z]*$`).MatchString(version) {
		t.Fatalf("vxcan --version: %q is no version", version)
	}
	for _, call := range []struct {
		name, arg, want string
	}{
		{"vxcan", "-version", "vxcan " + version + "\n"},
		{"vxcan-docker", "--version", "vxcan-docker " + version + "\n"},
		{"vxcan-docker", "-version", "vxcan-docker " + version + "\n"},
		{"vxcanctl", "--version", "vxcanctl " + version + "\n"},
	} {
		if got := output(t, call.name, call.arg); got != call.want {
			t.Errorf("%s %s: got %q, want %q", call.name, call.arg, got, call.want)
		}
	}
	// Without CNI_COMMAND, which only a person leaves out.
	about, _, _ := strings.Cut(output(t, "vxcan"), "\n")
	if want := "vxcan " + version + ", a CNI plugin that puts containers on a CAN bus"; about != want {
		t.Errorf("vxcan: got %q, want %q", about, want)
	}
	var info map[string]string
	if err := json.Unmarshal([]byte(output(t, "netavark/vxcan", "info")), &info); err != nil || info["version"] != version {
		t.Errorf("netavark/vxcan info: %v (%v), want version %q", info, err, version)
	}
}
