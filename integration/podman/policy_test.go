package podman

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPolicyPodman: so have Podman's.
func TestPolicyPodman(t *testing.T) {
	harness.FreshHost(t)
	p, ok := harness.NewNetavarkPodman(t)
	if !ok {
		return
	}
	p.Do("network", "create", "-d", "vxcan", "-o", "send=none", "mute")
	p.Do("network", "create", "-d", "vxcan", "-o", "hub=vcan3", "-o", "send=100,300-3FF", "-o", "rate=100000", "some")
	p.Run("box", "--network", "mute", "--network", "some:interface_name=can1")
	harness.ExpectSends(t, p.Station("box", "can0"), "vcan0", false, false)
	harness.ExpectSends(t, p.Station("box", "can1"), "vcan3", true, false)
	for option, word := range map[string]string{"send=1x0": "1x0", "receive=100,all": "only entry", "rate=0": "rate", "burst=many": "burst"} {
		_, err := harness.Try("podman", "network", "create", "-d", "vxcan", "-o", option, "wrong")
		harness.ExpectOneLine(t, err, "Error: ", word)
	}
}
