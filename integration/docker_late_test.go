package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestDockerLateController: Docker does not try again to start a container for which the controller came too late, as the
// README says. `docker start` does once it is there, and does no harm to a container that runs.
func TestDockerLateController(t *testing.T) {
	d := startDocker(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	d.docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "late")
	d.run("c1", "--network", "late", "--restart", "always")
	d.stopDaemon(os.Interrupt)
	controller.Unplug()
	d.startDaemon()
	running := func() string { return d.docker("inspect", "-f", "{{.State.Running}} {{.State.Error}}", "c1") }
	expectStopped := func(when string) {
		t.Helper()
		if state := running(); !strings.HasPrefix(state, "false") {
			t.Errorf("%s: %s; Docker tries again now: say so in conflist/controller and in the README", when, state)
		} else {
			t.Logf("%s: %s", when, state)
		}
	}
	expectStopped("without the controller")
	controller = cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	time.Sleep(5 * time.Second)
	expectStopped("5 s after it came")
	d.docker("start", "c1")
	expectOnWire(t, controller, []station{{"host", nil, "slot0"}, d.container("c1").on("can0")}, 10)
	d.docker("start", "c1")
	d.docker("rm", "-f", "c1")
	d.docker("network", "rm", "late")
	d.expectClean()
}
