// Package reboot tests Podman in a machine that starts again.
package reboot

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestRebootPodman: containers with and without a restart policy are back on the bus after a reboot, though nobody
// called DEL before it.
func TestRebootPodman(t *testing.T) { harness.Reboot(t, rebootPodman) }

func rebootPodman(t *testing.T, boot int) {
	p := harness.NewPodman(t, "canbus0")
	if boot == 1 {
		p.Run("always", "--network", "canbus0", "--restart", "always")
		p.Run("manual", "--network", "canbus0")
	} else {
		harness.ExpectNoHub(t, "vcan0")
		p.Do("start", "--all", "--filter", "restart-policy=always") // podman-restart.service
		p.Do("start", "manual")
	}
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), p.Station("always", "can0"), p.Station("manual", "can0")}, 50, true)
	if boot == 2 {
		p.Do("rm", "--force", "always", "manual")
		if n := harness.Recorded(t, "vcan0"); n > 0 {
			t.Errorf("%d endpoints on record", n)
		}
	}
}
