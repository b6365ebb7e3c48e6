package harness

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// Every test that uses this package has the queue for bursts that make install gives a machine, on a machine of our own:
// see TestBurst. It is not left to the folders' TestMain, for none to be without it.
func init() {
	if os.Getenv("VXCAN_VM") != "booted" {
		return
	}
	if err := ApplySysctl(Repo("plugins/vxcan/40-vxcan.conf")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ApplySysctl sets what a file of sysctl.d says, as sysctl -p does, which a small Debian lacks.
func ApplySysctl(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		file := "/proc/sys/" + strings.ReplaceAll(strings.TrimSpace(name), ".", "/")
		if err := os.WriteFile(file, []byte(strings.TrimSpace(value)), 0); err != nil {
			return err
		}
	}
	return nil
}

// WithoutModules unloads modules of the kernel, and hides all from modprobe, which otherwise loads them again.
func WithoutModules(t testing.TB, modules ...string) (restore func()) {
	t.Helper()
	for _, module := range modules {
		Command(t, "modprobe", "--remove", module)
	}
	Command(t, "mount", "--bind", t.TempDir(), "/lib/modules")
	restore = sync.OnceFunc(func() { Command(t, "umount", "/lib/modules") })
	t.Cleanup(restore)
	return restore
}

// RequireTwoCPUs skips the test, or fails it where such a machine was promised, unless the kernel is one of our own and
// has several CPUs.
func RequireTwoCPUs(t *testing.T) {
	t.Helper()
	switch own := os.Getenv("VXCAN_VM") == "booted"; {
	case own && runtime.NumCPU() > 1:
	case os.Getenv(cantest.PromisedUSB) == "1":
		t.Fatalf("%s=1, but this machine has %d CPUs, and VXCAN_VM is %q", cantest.PromisedUSB, runtime.NumCPU(), os.Getenv("VXCAN_VM"))
	default:
		t.Skip("needs two CPUs and a kernel of its own (bin/vm -qemu)")
	}
}
