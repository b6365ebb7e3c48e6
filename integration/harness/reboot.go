package harness

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// Reboot runs a test twice in one machine, before and after a reboot: what was in /var/lib at the end of the first boot is
// there in the second, and nothing else is. It boots that machine itself: the test is started on the host.
func Reboot(t *testing.T, test func(t *testing.T, boot int)) {
	t.Helper()
	if boot, err := strconv.Atoi(os.Getenv("VXCAN_BOOT")); err == nil {
		test(t, boot)
		return
	}
	if os.Getenv(cantest.Promised) == "" {
		t.Skip("boots a kernel with CAN: make test does it")
	}
	if os.Getenv("VXCAN_VM") != "" {
		t.Fatal("boots a machine: run it without -exec")
	}
	t.Parallel()
	inside, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	vm := strings.Fields(os.Getenv("VXCAN_VM_COMMAND")) // make's: with sudo, for who is not root
	if len(vm) == 0 {
		vm = []string{Repo("bin/vm")}
	}
	disk := filepath.Join(t.TempDir(), "disk")
	for _, boot := range []string{"1", "2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		args := append(slices.Clone(vm), "-disk", disk, inside, "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // for it to clean up
		cmd.WaitDelay = time.Minute
		cmd.Env = append(os.Environ(), "VXCAN_BOOT="+boot)
		out, err := cmd.CombinedOutput()
		t.Logf("boot %s:\n%s", boot, out)
		if err != nil {
			t.Fatalf("boot %s: %v", boot, err)
		}
	}
}

// ExpectNoHub fails the test if a hub survived the reboot, which would be none then. Each of these tests has its own.
func ExpectNoHub(t testing.TB, hub string) {
	t.Helper()
	if slices.Contains(CANLinks(t), hub) {
		t.Fatalf("%s survived the reboot", hub)
	}
}
