package docker

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestDockerHosts: a network that spans two hosts is one command. Its container is on the bus of both, also after a restart,
// and the trunk goes with the network.
func TestDockerHosts(t *testing.T) {
	d := harness.StartDocker(t)
	far := harness.NewOtherHost(t)
	d.Network("wide", "0", append(harness.SpanOptions(), "vxcan.peer=can")...)
	far.Attach(t)
	a := d.Run("wide0", "--network", "wide")
	expect := func(count int) {
		t.Helper()
		harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), far.Box.On("can0")}, count, true)
		if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
			t.Error(wrong)
		}
	}
	expect(100)
	d.Docker("restart", "-t", "0", "wide0")
	a = d.Container("wide0")
	expect(10)
	d.Docker("rm", "-f", "wide0")
	d.Docker("network", "rm", "wide")
	harness.ExpectNoTrunk(t)
}
