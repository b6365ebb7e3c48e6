package bus

import (
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestRootless: what these tests say of a bus of root is true in a user namespace, where filters are in the place of gateway
// rules.
func TestRootless(t *testing.T) {
	tests := []string{"TestPolicyFrames", "TestPolicyEdited", "TestTraffic", "TestHealFound", "TestUndoKeeps", "TestLoops", "TestStatus", "TestSpanRootless", "TestHubSwapped", "TestHubHeld", "TestHostEndsSwapped"}
	if cantest.IsThorough() {
		tests = append(tests, "TestProductFrames", "TestProductHost", "TestPolicyLost", "TestEvasion", "TestTakenBack", "TestRate", "TestThousand", "TestDetachEdited", "TestHostEndRenamed", "TestPodHubDeleted")
		if !testing.Short() { // which leaves it out
			tests = append(tests, "TestAttachFails")
		}
	}
	cantest.UserNamespace(t, tests...)
}
