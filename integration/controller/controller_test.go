// Package controller tests buses with a serial adapter, emulated, whose driver is the kernel's: what depends on the kernel
// or the runtimes of a Debian release.
package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestController: a controller with a real driver is used as it is. Everybody hears everybody else exactly once, the
// other nodes on the wire included. Nothing that the plugin does creates, changes or deletes the controller.
func TestController(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(a).With(harness.OnController).Fails(t, "ADD", 11, "slot0", "no such device")
	controller := cantest.NewController(t, "slot0")
	fresh := harness.ControllerState(t, "slot0")
	harness.On(a).With(harness.OnController).Fails(t, "ADD", 11, "slot0", "down")
	harness.On(a).With(`"hub":"slot0"`).Fails(t, "ADD", 7, "slot0", `"physical": true`)
	if now := harness.ControllerState(t, "slot0"); now != fresh {
		t.Errorf("failed ADDs changed the controller:\n%s\n%s", fresh, now)
	}
	harness.SetUpController(t, controller, 1000)
	harness.On(a).With(harness.OnController+`,"mtu":72`).Fails(t, "ADD", 7, "mtu 72", "MTU 16")
	harness.ExpectNothing(t)

	up := harness.ControllerState(t, "slot0")
	result, _ := harness.On(a).With(harness.OnController).Add(t)
	other, _ := harness.On(b).With(harness.OnController).Add(t)
	want := harness.WantRules(false, "slot0", harness.HostIf(result), harness.HostIf(other))
	want = append(want, "cangw -A -s slot0 -d slot0-tx -i -l 1 -f 000:3FFFFFFF") // error frames
	for _, end := range []string{harness.HostIf(result), harness.HostIf(other)} {
		want = append(want, fmt.Sprintf("cangw -A -s slot0-rx -d %s -i -l 1 -f 000:3FFFFFFF", end))
	}
	slices.Sort(want)
	harness.ExpectLines(t, "gateway rules", harness.Rules(t), want)
	harness.ExpectLines(t, "filters", harness.Filters(t), harness.WantFilters(t, "slot0", harness.HostIf(result), harness.HostIf(other)))
	all := []harness.Station{harness.Host("slot0"), a.On("can0"), b.On("can0")}
	harness.ExpectOnWire(t, controller, all, 100)
	if err := harness.On(a).With(harness.OnController).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.On(b).With(harness.OnController).OK(t, "DEL")
	harness.ExpectOnWire(t, controller, all[:2], 10)
	expectKinds(t, controller, a)
	harness.On(a).With(harness.OnController).OK(t, "DEL")

	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, harness.UpCommands) {
		t.Errorf("the controller was told %q, want %q", got, harness.UpCommands)
	}
}

// expectKinds fails the test unless frames of all kinds and lengths pass from a container to the wire and back.
func expectKinds(t *testing.T, controller *cantest.Controller, c *harness.Container) {
	t.Helper()
	var sent []cantest.Frame
	for _, id := range []uint32{0, 0x7FF, unix.CAN_EFF_FLAG, unix.CAN_EFF_FLAG | 0x1FFFFFFF} {
		for size := range 9 {
			sent = append(sent,
				cantest.Frame{ID: id, Data: "\xFF\x00\r\x01abcd"[:size]},
				cantest.Frame{ID: id | unix.CAN_RTR_FLAG, Data: strings.Repeat("\x00", size)})
		}
	}
	wire, inC := controller.Listen(), cantest.Listen(t, c.Netns, "can0")
	harness.SendAll(t, c, sent)
	for _, f := range sent {
		if err := controller.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(3*len(sent), wire, inC) // the container's own frames too
	for where, l := range map[string]*cantest.Listener{"wire": wire, "container": inC} {
		if got := l.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("on the %s arrives\n%v\nwant\n%v", where, got, sent)
		}
	}
}

// TestControllerQueue: frames that a container sends faster than the wire takes them wait in the controller's queue. A
// frame that finds the queue full reaches neither the wire nor programs on the host, although its write succeeds. Other
// containers hear it.
func TestControllerQueue(t *testing.T) {
	const burst = 500
	for _, c := range []struct {
		name        string
		queue       int // 0 is the driver's, which is 10
		least, most int // that reach the wire
	}{
		// One more is with the driver, and one more with the queueing discipline, which the driver has refused it.
		{"default", 0, 10, 12},
		{"1000", 1000, burst, burst},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.FreshHost(t)
			controller := cantest.NewController(t, "slot0")
			harness.SetUpController(t, controller, c.queue)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			harness.On(a).With(harness.OnController).Add(t)
			harness.On(b).With(harness.OnController).Add(t)
			wire, inB, onHost := controller.Listen(), cantest.Listen(t, b.Netns, "can0"), cantest.Listen(t, nil, "slot0")

			controller.Pace(cantest.Stopped)
			sent := harness.Numbered(burst)
			harness.SendAll(t, a, sent)
			cantest.WaitQuiet(burst+c.most, inB, onHost)
			if got := inB.InOrder(); !slices.Equal(got, sent) {
				t.Errorf("the other container hears %d frames of %d, or in another order", len(got), burst)
			}
			if got := len(wire.InOrder()); got != 0 {
				t.Fatalf("%d frames are on a wire that takes none", got)
			}
			controller.Pace(cantest.Unlimited)
			cantest.WaitQuiet(c.most, wire)

			got := wire.InOrder()
			if len(got) < c.least || len(got) > c.most || !slices.Equal(got, sent[:len(got)]) {
				t.Errorf("%d frames are on the wire, or in another order; want the first %d to %d", len(got), c.least, c.most)
			}
			if onHost := onHost.InOrder(); !slices.Equal(onHost, got) {
				t.Errorf("the host hears %d frames, want those %d that went out", len(onHost), len(got))
			}
			handled, dropped := harness.ToHub(t, "slot0")
			if handled != len(got) || dropped != burst-len(got) {
				t.Errorf("the rule to the hub: %d handled, %d dropped; want %d, %d", handled, dropped, len(got), burst-len(got))
			}
			t.Logf("of %d frames %d are lost to the wire and %d to the other container; dropped by the rule: %d",
				burst, burst-len(got), burst-len(inB.InOrder()), dropped)
		})
	}
}

// TestControllerErrors: what a controller reports in error frames, a container's candump shows as a host's does. A container
// cannot forge an error frame, and none is sent to the wire.
func TestControllerErrors(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 1000)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(a).With(harness.OnController).Add(t)
	harness.On(b).With(harness.OnController).Add(t)
	harness.ExpectErrorFrames(t, controller, harness.Host("slot0"), a.On("can0"), b.On("can0"))
}
