package integration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// setUpByUs is a network that has its controller set up.
const setUpByUs = onController + `,"bitrate":500000`

// TestControllerSetUp: a network with a bit rate sets up a controller that is down, with a queue for bursts, and uses one
// that is up with the same settings untouched. One that is up with others is refused and never taken down. A failed ADD
// leaves it as it was, also one whose second interface fails. The last DEL leaves it up, and after it the settings are its
// owner's.
func TestControllerSetUp(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).with(setUpByUs).fails(t, "ADD", 11, "slot0", "no such device")
	controller := cantest.NewController(t, "slot0")

	// What the driver cannot do is refused before anything is sent; a failed ADD takes the set-up back.
	for members, words := range map[string][]string{
		`,"bitrate":700000`: {"slot0", "bitrate 700000"},
		`,"bitrate":500000,"fd":true,"dbitrate":2000000`: {"slot0", "not supported: fd"},
		`,"bitrate":500000,"termination":120`:            {"slot0", "termination 120"},
		`,"bitrate":500000,"one-shot":true`:              {"slot0", "one-shot"},
	} {
		on(a).with(onController+members).fails(t, "ADD", 7, words...)
	}
	command(t, "ip", "-netns", "a", "link", "add", "can0", "type", "dummy")
	on(a).with(setUpByUs).fails(t, "ADD", 7, "can0", "already")
	pod(a, `,"vxcan/networks":"slot0:can1,bench1:can0"`).with(setUpByUs).fails(t, "ADD", 7, "can0", "already")
	if state := controllerState(t, "slot0"); strings.Contains(state, `"UP"`) {
		t.Errorf("a failed ADD left the controller up: %s", state)
	}
	command(t, "ip", "-netns", "a", "link", "del", "can0")
	expectNothing(t)

	result, log := on(a).with(setUpByUs).add(t)
	t.Logf("%s", log)
	waitForState(t, "slot0", `"operstate":"UP"`, `"bittiming_bitrate":500000`, `"txqlen":1000`)
	up := controllerState(t, "slot0")
	_, log = on(b).with(onController + `,"bitrate":500000,"restart-ms":100,"name":"other"`).add(t) // a driver without it agrees all the same
	t.Logf("%s", log)
	expectOnWire(t, controller, []station{{"host", nil, "slot0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 50)
	if err := on(a).with(setUpByUs).check(t, result); err != nil {
		t.Error(err)
	}
	on(newContainer(t, "c")).with(onController+`,"bitrate":250000,"name":"third"`).fails(t, "ADD", 7,
		"slot0 is up with bitrate 500000, want 250000", "set it down (ip link set slot0 down)")
	if now := controllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}

	// A shorter queue is raised, also while it is up, and CHECK says so.
	command(t, "ip", "link", "set", "slot0", "txqueuelen", "10")
	if err := on(a).with(setUpByUs).check(t, result); err == nil || !strings.Contains(err.Error(), "holds 10 frames, want 1000") {
		t.Errorf("CHECK with a short queue: %v", err)
	}
	on(a).with(setUpByUs).add(t)
	if now := controllerState(t, "slot0"); now != up {
		t.Errorf("after the queue was short:\n%s\n%s", up, now)
	}

	// Down, the next ADD sets it up again; bus-off, CHECK says so and ADD goes on.
	command(t, "ip", "link", "set", "slot0", "down")
	if err := on(a).with(setUpByUs).check(t, result); err == nil || !strings.Contains(err.Error(), "controller slot0 is down") {
		t.Errorf("CHECK of a controller that is down: %v", err)
	}
	on(b).with(setUpByUs + `,"name":"other"`).add(t)
	if err := on(a).with(setUpByUs).check(t, result); err != nil {
		t.Errorf("after the next ADD: %v", err)
	}
	busOff(t, controller)
	if err := on(a).with(setUpByUs).check(t, result); err == nil || !strings.Contains(err.Error(), "is bus-off") {
		t.Errorf("CHECK of a controller that is bus-off: %v", err)
	}
	_, log = on(b).with(setUpByUs + `,"name":"other"`).add(t)
	if !strings.Contains(log, "bus-off and cannot be restarted") || strings.Contains(log, "found and repaired: controller") {
		t.Errorf("log of ADD while bus-off: %s", log)
	}
	on(a).with(setUpByUs).ok(t, "DEL")
	on(b).with(setUpByUs+`,"name":"other"`).ok(t, "DEL")
	if state := controllerState(t, "slot0"); !strings.Contains(state, `"UP"`) {
		t.Errorf("the last DEL took the controller down: %s", state)
	}

	command(t, "ip", "link", "set", "slot0", "down")
	command(t, "ip", "link", "set", "slot0", "up", "type", "can", "bitrate", "250000")
	waitForState(t, "slot0", `"operstate":"UP"`)
	up = controllerState(t, "slot0")
	expectQuiet := func() {
		t.Helper()
		for want, args := range map[string][]string{noBus: {"heal"}, "slot0: nothing to repair\n": {"heal", "slot0"}} {
			if said := vxcanctl(t, args...); said != want {
				t.Errorf("vxcanctl %s with no container: %s", strings.Join(args, " "), said)
			}
		}
	}
	expectQuiet()
	if now := controllerState(t, "slot0"); now != up {
		t.Errorf("heal with no container changed the controller:\n%s\n%s", up, now)
	}
	controller.Unplug()
	cantest.NewController(t, "slot0")
	expectQuiet()
	if state := controllerState(t, "slot0"); strings.Contains(state, `"UP"`) {
		t.Errorf("heal with no container set the controller up: %s", state)
	}
	on(a).with(onController + `,"bitrate":250000`).add(t)
	if state := controllerState(t, "slot0"); !strings.Contains(state, `"bittiming_bitrate":250000`) {
		t.Errorf("the new bit rate of the network: %s", state)
	}
}

// TestControllerShortQueue: where the owner set the controller up, ADD and CHECK say that its queue loses bursts, and change
// nothing.
func TestControllerShortQueue(t *testing.T) {
	freshHost(t)
	setUpController(t, cantest.NewController(t, "slot0"), 0)
	a := newContainer(t, "a")
	result, log := on(a).with(onController).add(t)
	const words = "holds 10 frames, so that bursts lose frames: ip link set slot0 txqueuelen 1000"
	if !strings.Contains(log, words) {
		t.Errorf("log of ADD: %s", log)
	}
	_, log, err := on(a).with(onController+`,"prevResult":`+string(marshal(t, result))).exec(t, "CHECK")
	if err != nil || !strings.Contains(log, words) {
		t.Errorf("CHECK: %v, %s", err, log)
	}
}

// TestControllerEmptyQueue: a controller whose queue was 0 gets one that works.
func TestControllerEmptyQueue(t *testing.T) {
	freshHost(t)
	controller, a := cantest.NewController(t, "slot0"), newContainer(t, "a")
	command(t, "ip", "link", "set", "slot0", "txqueuelen", "0")
	on(a).with(setUpByUs).add(t)
	t.Logf("%s", command(t, "sh", "-c", "tc qdisc show dev slot0; ip link show dev slot0"))
	wire, sent := controller.Listen(), numbered(500)
	controller.Pace(cantest.Stopped)
	sendAll(t, a, sent)
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(len(sent), wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("of a burst of %d frames %d are on the wire", len(sent), len(got))
	}
}

// TestControllerAdds: of several ADDs at once with two settings, all of one win and the others are refused.
func TestControllerAdds(t *testing.T) {
	freshHost(t)
	cantest.NewController(t, "slot0")
	const count = 6
	var boxes []*container
	for i := range count {
		boxes = append(boxes, newContainer(t, fmt.Sprint("c", i)))
	}
	errs, all := make([]error, count), sync.WaitGroup{}
	for i, c := range boxes {
		all.Add(1)
		go func() {
			defer all.Done()
			_, _, errs[i] = on(c).with(fmt.Sprintf(`%s,"bitrate":%d,"name":"n%d"`, onController, 250000*(1+i%2), i%2)).exec(t, "ADD")
		}()
	}
	all.Wait()
	won := strings.Contains(controllerState(t, "slot0"), `"bittiming_bitrate":500000`)
	for i, err := range errs {
		if (err == nil) != (won == (i%2 == 1)) {
			t.Errorf("ADD %d: %v; 500000 won: %v", i, err, won)
		}
		if err != nil && !strings.Contains(err.Error(), "slot0 is up with bitrate") {
			t.Error(err)
		}
	}
}
