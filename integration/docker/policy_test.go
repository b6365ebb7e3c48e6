package docker

import (
	"os"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPolicyDocker: Docker's containers have the policies of their networks, also when the driver has been killed.
func TestPolicyDocker(t *testing.T) {
	d := harness.StartDocker(t)
	d.Network("mute", "0", "vxcan.peer=can", "send=none")
	d.Network("some", "0", "vxcan.peer=can", "send=100,300-3FF", "receive=200", "rate=100000")
	harness.ExpectSends(t, d.Run("mute", "--network", "mute").On("can0"), "vcan0", false, false)
	d.StopDriver(os.Kill)
	d.StartDriver()
	harness.ExpectSends(t, d.Run("some", "--network", "some").On("can0"), "vcan0", true, false)
	d.Docker("restart", "-t", "0", "mute")
	harness.ExpectSends(t, d.Container("mute").On("can0"), "vcan0", false, false)
	for option, word := range map[string]string{"send=1x0": "1x0", "receive=100,all": "only entry", "rate=0": "rate", "burst=many": "burst"} {
		_, err := d.Try("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", option, "wrong")
		harness.ExpectOneLine(t, err, "Error response from daemon: ", word)
	}
	d.Docker("rm", "-f", "mute", "some")
	d.Docker("network", "rm", "mute", "some")
	d.ExpectClean()
}
