package harness

import (
	"os"
	"slices"
	"testing"
)

// BootNumber is 1 before and 2 after the reboot. Tests that need one are called TestReboot…, and integration/reboot
// runs them, twice on one disk.
func BootNumber(t testing.TB) int {
	t.Helper()
	switch os.Getenv("VXCAN_BOOT") {
	case "1":
		return 1
	case "2":
		return 2
	}
	t.Skip("the tests of integration/reboot run this")
	return 0
}

// ExpectNoHub fails the test if a hub survived the reboot, which would be none then. Each of these tests has its own.
func ExpectNoHub(t testing.TB, hub string) {
	t.Helper()
	if slices.Contains(CANLinks(t), hub) {
		t.Fatalf("%s survived the reboot", hub)
	}
}
