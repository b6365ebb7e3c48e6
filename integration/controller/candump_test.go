package controller

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerCandump: what a container's candump -e shows of a serial adapter's errors is what the host's shows.
func TestControllerCandump(t *testing.T) {
	harness.FreshHost(t)
	controller, a := cantest.NewController(t, "slot0"), harness.NewContainer(t, "a")
	harness.On(a).With(harness.SetUpByUs).Add(t)
	onHost, inA := harness.StartCandump(t, nil, "slot0", len(harness.ErrorLines)), harness.StartCandump(t, a, "can0", len(harness.ErrorLines))
	for _, line := range harness.ErrorLines {
		if err := controller.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
	}
	harness.ExpectSame(t, onHost(), inA(), harness.ErrorWords...)
}
