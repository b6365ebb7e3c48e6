package controller

import (
	"slices"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerBurst: a burst of a container is on the wire, whole and in order, where we set the controller up: when the
// wire takes it at its bit rate, and when it takes nothing before the burst is over.
func TestControllerBurst(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.SetUpByUs).Add(t)
	for rate, count := range harness.Bursts {
		wire, sent := controller.Listen(), harness.Numbered(count)
		controller.Pace(rate)
		harness.SendAll(t, a, sent)
		if rate == cantest.Stopped {
			controller.Pace(cantest.Unlimited)
		}
		cantest.WaitQuiet(len(sent), wire)
		if got := wire.InOrder(); !slices.Equal(got, sent) {
			handled, dropped := harness.ToHub(t, "slot0")
			t.Errorf("rate %d: %d frames of %d are on the wire, or in another order; the rule to the hub: %d handled, %d dropped; %s",
				rate, len(got), len(sent), handled, dropped, harness.Command(t, "sh", "-c", "tc -s qdisc show dev slot0; cat /proc/net/softnet_stat"))
		}
		wire.Close()
	}
}
