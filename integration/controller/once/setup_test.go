package once

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerShortQueue: where the owner set the controller up, ADD and CHECK say that its queue loses bursts, and change
// nothing.
func TestControllerShortQueue(t *testing.T) {
	harness.FreshHost(t)
	harness.SetUpController(t, cantest.NewController(t, "slot0"), 0)
	a := harness.NewContainer(t, "a")
	result, log := harness.On(a).With(harness.OnController).Add(t)
	const words = "holds 10 frames, so that bursts lose frames: ip link set slot0 txqueuelen 1000"
	if !strings.Contains(log, words) {
		t.Errorf("log of ADD: %s", log)
	}
	_, log, err := harness.On(a).With(harness.OnController+`,"prevResult":`+string(harness.Marshal(t, result))).Exec(t, "CHECK")
	if err != nil || !strings.Contains(log, words) {
		t.Errorf("CHECK: %v, %s", err, log)
	}
}

// TestControllerAdds: of several ADDs at once with two settings, all of one win and the others are refused.
func TestControllerAdds(t *testing.T) {
	harness.FreshHost(t)
	cantest.NewController(t, "slot0")
	const count = 6
	var boxes []*harness.Container
	for i := range count {
		boxes = append(boxes, harness.NewContainer(t, fmt.Sprint("c", i)))
	}
	errs, all := make([]error, count), sync.WaitGroup{}
	for i, c := range boxes {
		all.Add(1)
		go func() {
			defer all.Done()
			_, _, errs[i] = harness.On(c).With(fmt.Sprintf(`%s,"bitrate":%d,"name":"n%d"`, harness.OnController, 250000*(1+i%2), i%2)).Exec(t, "ADD")
		}()
	}
	all.Wait()
	won := strings.Contains(harness.ControllerState(t, "slot0"), `"bittiming_bitrate":500000`)
	for i, err := range errs {
		if (err == nil) != (won == (i%2 == 1)) {
			t.Errorf("ADD %d: %v; 500000 won: %v", i, err, won)
		}
		if err != nil && !strings.Contains(err.Error(), "slot0 is up with bitrate") {
			t.Error(err)
		}
	}
}
