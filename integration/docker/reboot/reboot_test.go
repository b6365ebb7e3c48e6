// Package reboot tests Docker in a machine that starts again.
package reboot

import (
	"os"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestRebootDocker: after a reboot Docker starts its containers and says nothing of their network; there is no hub, no
// pair and no rule, and of the endpoints nobody has heard.
func TestRebootDocker(t *testing.T) { harness.Reboot(t, rebootDocker) }

func rebootDocker(t *testing.T, boot int) {
	d := harness.NewDocker(t)
	const hub = "vcan9"
	if boot == 1 {
		d.StartDriver()
		d.StartDaemon()
		d.Docker("load", "-i", harness.ImageArchive(t, harness.DockerImage))
		d.Network("canbus", "9")
		d.Run("c1", "--network", "canbus", "--restart", "always")
		d.Run("c2", "--network", "canbus", "--restart", "always")
		d.Run("c3", "--network", "canbus")
	} else {
		harness.ExpectNoHub(t, hub)
		d.StartDriver()
		d.StartDaemon()
	}
	c1, c2 := d.Container("c1"), d.Container("c2")
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host(hub), c1.On("can0"), c2.On("can0")}, 100, true)
	if boot == 1 {
		return // and the power fails
	}
	harness.ExpectBus(t, hub, 2)
	d.Docker("start", "c3") // not back yet until now
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host(hub), c1.On("can0"), c2.On("can0"), d.Container("c3").On("can0")}, 100, true)
	t.Log(d.Log())
	d.RemoveAll("canbus", hub, "c1", "c2", "c3")
	d.StopDaemon(os.Interrupt)
	d.StopDriver(os.Interrupt)
}
