// Package reboot runs on the host and boots one machine twice: what was in /var/lib at the end of the first boot is
// there in the second, and nothing else is.
package reboot

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReboot runs the tests of package integration whose names begin with TestReboot, before and after a reboot.
func TestReboot(t *testing.T) {
	if os.Getenv("VXCAN_TEST_CAN") == "" {
		t.Skip("boots a kernel with CAN: make test does it")
	}
	inside := filepath.Join(t.TempDir(), "integration.test")
	if out, err := exec.Command("go", "test", "-c", "-o", inside, "..").CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	vm := strings.Fields(os.Getenv("VXCAN_VM_COMMAND")) // make's: with sudo, for who is not root
	if len(vm) == 0 {
		path, err := filepath.Abs("../../bin/vm")
		if err != nil {
			t.Fatal(err)
		}
		vm = []string{path}
	}
	list, err := exec.Command(inside, "-test.list", "^TestReboot").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := filepath.Join(t.TempDir(), "disk") // a machine of its own
			for _, boot := range []string{"1", "2"} {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				args := append(slices.Clone(vm), "-disk", disk, inside, "-test.run", "^"+name+"$", "-test.v")
				cmd := exec.CommandContext(ctx, args[0], args[1:]...)
				cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // for it to clean up
				cmd.WaitDelay = time.Minute
				cmd.Dir = ".." // where these tests expect to be
				cmd.Env = append(os.Environ(), "VXCAN_BOOT="+boot)
				out, err := cmd.CombinedOutput()
				t.Logf("boot %s:\n%s", boot, out)
				if err != nil {
					t.Fatalf("boot %s: %v", boot, err)
				}
			}
		})
	}
}
