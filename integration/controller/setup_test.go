package controller

import (
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerSetUp: a network with a bit rate sets up a controller that is down, with a queue for bursts, and uses one
// that is up with the same settings untouched. One that is up with others is refused and never taken down. A failed ADD
// leaves it as it was, also one whose second interface fails. The last DEL leaves it up, and after it the settings are its
// owner's.
func TestControllerSetUp(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(a).With(harness.SetUpByUs).Fails(t, "ADD", 11, "slot0", "no such device")
	controller := cantest.NewController(t, "slot0")

	// What the driver cannot do is refused before anything is sent; a failed ADD takes the set-up back.
	for members, words := range map[string][]string{
		`,"bitrate":700000`: {"slot0", "bitrate 700000"},
		`,"bitrate":500000,"fd":true,"dbitrate":2000000`: {"slot0", "not supported: fd"},
		`,"bitrate":500000,"termination":120`:            {"slot0", "termination 120"},
		`,"bitrate":500000,"one-shot":true`:              {"slot0", "one-shot"},
	} {
		harness.On(a).With(harness.OnController+members).Fails(t, "ADD", 7, words...)
	}
	harness.Command(t, "ip", "-netns", "a", "link", "add", "can0", "type", "dummy")
	harness.On(a).With(harness.SetUpByUs).Fails(t, "ADD", 7, "can0", "already")
	harness.Pod(a, `,"vxcan/networks":"slot0:can1,bench1:can0"`).With(harness.SetUpByUs).Fails(t, "ADD", 7, "can0", "already")
	if state := harness.ControllerState(t, "slot0"); strings.Contains(state, `"UP"`) {
		t.Errorf("a failed ADD left the controller up: %s", state)
	}
	harness.Command(t, "ip", "-netns", "a", "link", "del", "can0")
	harness.ExpectNothing(t)

	result, log := harness.On(a).With(harness.SetUpByUs).Add(t)
	t.Logf("%s", log)
	harness.WaitForState(t, "slot0", `"operstate":"UP"`, `"bittiming_bitrate":500000`, `"txqlen":1000`)
	up := harness.ControllerState(t, "slot0")
	_, log = harness.On(b).With(harness.OnController + `,"bitrate":500000,"restart-ms":100,"name":"other"`).Add(t) // a driver without it agrees all the same
	t.Logf("%s", log)
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), a.On("can0"), b.On("can0")}, 50)
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.On(harness.NewContainer(t, "c")).With(harness.OnController+`,"bitrate":250000,"name":"third"`).Fails(t, "ADD", 7,
		"slot0 is up with bitrate 500000, want 250000", "set it down (ip link set slot0 down)")
	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}

	// A shorter queue is raised, also while it is up, and CHECK says so.
	harness.Command(t, "ip", "link", "set", "slot0", "txqueuelen", "10")
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err == nil || !strings.Contains(err.Error(), "holds 10 frames, want 1000") {
		t.Errorf("CHECK with a short queue: %v", err)
	}
	harness.On(a).With(harness.SetUpByUs).Add(t)
	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("after the queue was short:\n%s\n%s", up, now)
	}

	// Down, the next ADD sets it up again; bus-off, CHECK says so and ADD goes on.
	harness.Command(t, "ip", "link", "set", "slot0", "down")
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err == nil || !strings.Contains(err.Error(), "controller slot0 is down") {
		t.Errorf("CHECK of a controller that is down: %v", err)
	}
	harness.On(b).With(harness.SetUpByUs + `,"name":"other"`).Add(t)
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err != nil {
		t.Errorf("after the next ADD: %v", err)
	}
	harness.BusOff(t, controller)
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err == nil || !strings.Contains(err.Error(), "is bus-off") {
		t.Errorf("CHECK of a controller that is bus-off: %v", err)
	}
	_, log = harness.On(b).With(harness.SetUpByUs + `,"name":"other"`).Add(t)
	if !strings.Contains(log, "bus-off and cannot be restarted") || strings.Contains(log, "found and repaired: controller") {
		t.Errorf("log of ADD while bus-off: %s", log)
	}
	harness.On(a).With(harness.SetUpByUs).OK(t, "DEL")
	harness.On(b).With(harness.SetUpByUs+`,"name":"other"`).OK(t, "DEL")
	if state := harness.ControllerState(t, "slot0"); !strings.Contains(state, `"UP"`) {
		t.Errorf("the last DEL took the controller down: %s", state)
	}

	harness.Command(t, "ip", "link", "set", "slot0", "down")
	harness.Command(t, "ip", "link", "set", "slot0", "up", "type", "can", "bitrate", "250000")
	harness.WaitForState(t, "slot0", `"operstate":"UP"`)
	up = harness.ControllerState(t, "slot0")
	expectQuiet := func() {
		t.Helper()
		for _, args := range [][]string{{"heal"}, {"heal", "slot0"}} { // its backplane is still there
			if said := harness.Vxcanctl(t, args...); said != "slot0: nothing to repair\n" {
				t.Errorf("vxcanctl %s with no container: %s", strings.Join(args, " "), said)
			}
		}
	}
	expectQuiet()
	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("heal with no container changed the controller:\n%s\n%s", up, now)
	}
	controller.Unplug()
	cantest.NewController(t, "slot0")
	expectQuiet()
	if state := harness.ControllerState(t, "slot0"); strings.Contains(state, `"UP"`) {
		t.Errorf("heal with no container set the controller up: %s", state)
	}
	harness.On(a).With(harness.OnController + `,"bitrate":250000`).Add(t)
	if state := harness.ControllerState(t, "slot0"); !strings.Contains(state, `"bittiming_bitrate":250000`) {
		t.Errorf("the new bit rate of the network: %s", state)
	}
}

// TestControllerEmptyQueue: a controller whose queue was 0 gets one that works.
func TestControllerEmptyQueue(t *testing.T) {
	harness.FreshHost(t)
	controller, a := cantest.NewController(t, "slot0"), harness.NewContainer(t, "a")
	harness.Command(t, "ip", "link", "set", "slot0", "txqueuelen", "0")
	harness.On(a).With(harness.SetUpByUs).Add(t)
	t.Logf("%s", harness.Command(t, "sh", "-c", "tc qdisc show dev slot0; ip link show dev slot0"))
	wire, sent := controller.Listen(), harness.Numbered(500)
	controller.Pace(cantest.Stopped)
	harness.SendAll(t, a, sent)
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(len(sent), wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("of a burst of %d frames %d are on the wire", len(sent), len(got))
	}
}
