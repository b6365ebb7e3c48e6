package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// inRecord tells whether the record of the bus of vcan0 has a pod, which status would not show once its devices are gone.
func inRecord(t testing.TB, pod harness.PodOn) bool {
	t.Helper()
	content, err := os.ReadFile(harness.RecordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(content), pod.Sandbox)
}
