package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerBurst: a burst of a container is on the wire, whole and in order, where we set the controller up: when the
// wire takes it at its bit rate, when it takes nothing before the burst is over, and beside a container that floods.
func TestControllerBurst(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(a).With(harness.SetUpByUs).Add(t)
	for rate, count := range harness.Bursts {
		controller.Pace(rate)
		burst(t, controller, rate, a, count)
	}
	harness.On(b).With(harness.SetUpByUs).Add(t)
	const rate = 400 // which the flooder alone exceeds
	controller.Pace(rate)
	stop := harness.Flood(t, b, 0x200)
	time.Sleep(2 * time.Second) // it has some frames of its own waiting
	burst(t, controller, rate, a, 984)
	stop()
}

// burst fails the test unless a burst of a container is on the wire. One that takes nothing takes everything afterwards.
func burst(t *testing.T, controller *cantest.Controller, rate int, box *harness.Container, count int) {
	t.Helper()
	wire, sent := controller.Listen(), harness.Numbered(count)
	defer wire.Close()
	harness.SendAll(t, box, sent)
	if rate == cantest.Stopped {
		controller.Pace(cantest.Unlimited)
	}
	of := func() []cantest.Frame {
		return slices.DeleteFunc(wire.InOrder(), func(f cantest.Frame) bool { return f.ID != sent[0].ID })
	}
	for deadline := time.Now().Add(time.Minute); len(of()) < len(sent) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if got := of(); !slices.Equal(got, sent) {
		handled, dropped := harness.ToHub(t, "slot0")
		t.Errorf("rate %d: %d frames of %d are on the wire, or in another order; the rule to the hub: %d handled, %d dropped; %s",
			rate, len(got), len(sent), handled, dropped, harness.Command(t, "sh", "-c", "tc -s qdisc show dev slot0; cat /proc/net/softnet_stat"))
	}
}
