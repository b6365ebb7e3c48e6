// Package reboot tests a kubelet in a machine that starts again.
package reboot

import (
	"regexp"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestRebootKubelet: after a reboot the kubelet runs the pods again, each in a new sandbox, and nothing of the old ones is
// left.
func TestRebootKubelet(t *testing.T) { harness.Reboot(t, rebootKubelet) }

func rebootKubelet(t *testing.T, boot int) {
	if boot == 2 {
		harness.ExpectNoHub(t, "vcan0")
		t.Logf("before the kubelet: IPs %v", harness.PodIPs(t))
	}
	n := harness.NewNode(t, harness.PodHubs)
	if boot == 1 {
		n.Apply("engine", "can0")
		n.Apply("dashboard", "vcan0:can0,vcan1:can1")
	}
	engine, dashboard := n.Running("engine"), n.Running("dashboard")
	t.Logf("engine:\n%s", engine.Exec("/bin/busybox", "ip", "addr"))
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), engine.On("can0"), dashboard.On("can0")}, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), dashboard.On("can1")}, 20, true)
	n.WaitFor("two pods have two IPs", func() bool { return len(harness.PodIPs(t)) == 2 })
	harness.ExpectRecorded(t, 2)
	if boot == 2 {
		n.Delete("engine")
		n.Delete("dashboard")
		n.ExpectGone()
		harness.ExpectOnlyConfiguredHub(t)
	}
}

// TestRebootKubeletLate: after a reboot the controller of the bus comes late. The kubelet tries again and again, with a new
// sandbox each time, of which nothing is left, until it is there.
func TestRebootKubeletLate(t *testing.T) { harness.Reboot(t, rebootKubeletLate) }

func rebootKubeletLate(t *testing.T, boot int) {
	harness.Command(t, "modprobe", "slcan") // for the test to fail without it, and not to be skipped
	var controller *cantest.Controller
	plug := func() { controller = cantest.NewController(t, harness.LateController) }
	if boot == 1 {
		plug()
	}
	n := harness.NewNode(t, `"hub":"`+harness.LateController+`","physical":true,"bitrate":500000`)
	if boot == 1 {
		n.Apply("engine", "can0")
	} else {
		failures := func() []string {
			return n.Logged(`"Error syncing pod, skipping".*CreatePodSandbox.*` + harness.LateController + `.*no such device`)
		}
		n.WaitFor("the kubelet has failed three times to start engine", func() bool { return len(failures()) > 2 })
		t.Logf("%s", failures()[0])
		sandboxes := make(map[string]bool)
		for _, line := range failures() {
			sandboxes[regexp.MustCompile("[0-9a-f]{64}").FindString(line)] = true
		}
		if len(sandboxes) < 3 {
			t.Errorf("sandboxes of the failures: %v, want three", sandboxes)
		}
		n.WaitFor("nothing is left of them", func() bool { return len(harness.PodNetns(t))+len(harness.PodIPs(t))+len(harness.CANLinks(t)) == 0 })
		plug()
	}
	engine := n.Running("engine")
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host(harness.LateController), engine.On("can0")}, 20)
	n.WaitFor("one pod has one IP", func() bool { return len(harness.PodIPs(t)) == 1 })
}
