package once

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerOthers: a controller that somebody else has set up is used untouched when it agrees with the network, and
// refused and never taken down when it does not.
func TestControllerOthers(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 2000)
	up := harness.ControllerState(t, "slot0")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.OnController+`,"bitrate":250000`).Fails(t, "ADD", 7, "slot0 is up with bitrate 500000, want 250000")
	harness.On(a).With(harness.OnController+`,"bitrate":500000,"listen-only":true`).Fails(t, "ADD", 7, "slot0 is up with", "listen-only")
	harness.ExpectNothing(t)

	// With a filter that is run before ours, or in the place of ours, frames from the wire would go back to it.
	harness.Command(t, "tc", "qdisc", "add", "dev", "slot0", "clsact")
	cures := regexp.MustCompile(`tc filter del dev slot0 egress pref 1( handle 0x2 bpf)?`)
	for _, filter := range []string{"matchall action skbedit priority 6", "protocol all handle 2 bpf bytecode '1,6 0 0 4294967295' action ok"} {
		harness.Command(t, "sh", "-c", "tc filter add dev slot0 egress prio 1 "+filter)
		_, _, err := harness.On(a).With(harness.SetUpByUs).Exec(t, "ADD")
		cure := cures.FindString(fmt.Sprint(err))
		if err == nil || cure == "" {
			t.Fatalf("ADD with the filter %s: %v", filter, err)
		}
		harness.Command(t, "sh", "-c", cure)
		harness.ExpectNothing(t)
	}
	result, _ := harness.On(a).With(harness.SetUpByUs).Add(t)
	harness.Vxcanctl(t, "heal", "slot0")
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), a.On("can0")}, 20)
	harness.On(a).With(harness.SetUpByUs).OK(t, "DEL")
	up = strings.Replace(up, `"qdisc":"pfifo_fast"`, `"qdisc":"drr"`, 1) // the queues of containers stay
	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, harness.UpCommands) {
		t.Errorf("the controller was told %q, want %q", got, harness.UpCommands)
	}
}
