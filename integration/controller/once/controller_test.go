package once

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerPace: with room in the queue, a wire that is slower than the sender delays frames and loses none.
func TestControllerPace(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 1000)
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.OnController).Add(t)
	const count, rate = 200, 400
	controller.Pace(rate)
	wire, start, sent := controller.Listen(), time.Now(), harness.Numbered(count)
	harness.SendAll(t, a, sent)
	cantest.WaitQuiet(count, wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("%d frames of %d are on the wire, or in another order", len(got), count)
	}
	if took := time.Since(start); took < count*time.Second/rate {
		t.Errorf("%d frames at %d/s took %v", count, rate, took)
	}
}

// TestControllerEnds: what a container has sent before it ended is still sent.
func TestControllerEnds(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.SetUpByUs).Add(t)
	controller.Pace(cantest.Stopped)
	const count = 20
	sent := harness.Numbered(count)
	harness.SendAll(t, a, sent)
	wire := controller.Listen()
	harness.On(a).With(harness.SetUpByUs).OK(t, "DEL")
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(count, wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("%d frames of %d are on the wire, or in another order", len(got), count)
	}
}

// TestControllerTrouble: while the controller cannot send, containers hear each other, and their writes succeed although
// nothing reaches the wire, then or later. When its owner has set it up again, the sockets from before hear the wire and
// reach it.
func TestControllerTrouble(t *testing.T) {
	const count = 20
	for _, c := range []struct {
		name             string
		trouble          func(*testing.T, *cantest.Controller)
		handled, dropped int // by the rule to the hub
		gone             bool
	}{
		{"down", func(t *testing.T, _ *cantest.Controller) { harness.Command(t, "ip", "link", "set", "slot0", "down") }, 0, count, false},
		{"bus-off", harness.BusOff, count, 0, false},
		{"unplugged", func(t *testing.T, c *cantest.Controller) { c.Unplug() }, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.FreshHost(t)
			controller := cantest.NewController(t, "slot0")
			harness.SetUpController(t, controller, 1000)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			harness.On(a).With(harness.OnController).Add(t)
			harness.On(b).With(harness.OnController).Add(t)
			fromA, sent := cantest.NewSender(t, a.Netns, "can0"), harness.Numbered(count)

			// What waits when it begins is not sent later either, but for what the adapter itself has taken.
			controller.Pace(cantest.Stopped)
			const waiting = 30
			for n := range waiting {
				if err := fromA.Send(cantest.Frame{ID: 0x7FF, Data: fmt.Sprint(n)}); err != nil {
					t.Fatal(err)
				}
			}
			c.trouble(t, controller)
			inB, wire := cantest.Listen(t, b.Netns, "can0"), controller.Listen()
			for _, f := range sent {
				if err := fromA.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			cantest.WaitQuiet(count, inB)
			if got := inB.InOrder(); !slices.Equal(got, sent) {
				t.Errorf("the other container hears %d frames of %d", len(got), count)
			}
			if got := wire.InOrder(); len(got) != 0 {
				t.Errorf("%d frames are on the wire", len(got))
			}
			controller.Pace(cantest.Unlimited)
			if !c.gone {
				if handled, dropped := harness.ToHub(t, "slot0"); handled != c.handled+waiting || dropped != c.dropped {
					t.Errorf("the rule to the hub: %d handled, %d dropped; want %d, %d", handled, dropped, c.handled+waiting, c.dropped)
				}
				harness.Command(t, "ip", "link", "set", "slot0", "down")
				harness.Command(t, "ip", "link", "set", "slot0", "up")
			} else {
				if slices.ContainsFunc(harness.Links(t), func(l harness.Link) bool { return l.Name == "slot0" }) {
					t.Error("the unplugged controller is there")
				}
				harness.On(a).With(harness.OnController).Fails(t, "ADD", 11, "slot0", "no such device")
				controller = cantest.NewController(t, "slot0")
				harness.SetUpController(t, controller, 1000)
				harness.On(harness.NewContainer(t, "c")).With(harness.OnController).Add(t) // gives the hub its rules again
			}
			if c.gone {
				wire = controller.Listen()
			}
			fromWire := cantest.Frame{ID: 0x7E8, Data: "back"}
			for _, f := range sent { // by the socket from before
				if err := fromA.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := controller.Send(fromWire); err != nil {
				t.Fatal(err)
			}
			cantest.WaitQuiet(3*count+1, inB, wire)
			old := 0
			got := slices.DeleteFunc(slices.Clone(wire.InOrder()), func(f cantest.Frame) bool {
				if f.ID == 0x7FF {
					old++
				}
				return f.ID == 0x7FF
			})
			t.Logf("%d of %d frames that waited are on the wire", old, waiting)
			if !slices.Equal(got, sent) || old > waiting/2 {
				t.Errorf("%d frames of %d are on the wire again, or in another order, and %d old ones", len(got), count, old)
			}
			if heard, _ := inB.Heard(); heard[fromWire] != 1 {
				t.Errorf("the socket from before hears the wire %d times, want 1", heard[fromWire])
			}
		})
	}
}
