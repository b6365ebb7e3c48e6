package podman

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPodmanHosts: a network that spans two hosts is one command. Its container is on the bus of both, also after a restart.
func TestPodmanHosts(t *testing.T) {
	far := harness.NewOtherHost(t)
	p, ok := harness.NewNetavarkPodman(t)
	if !ok { // TestHosts has CNI
		return
	}
	create := []string{"network", "create", "-d", "vxcan"}
	for _, o := range harness.SpanOptions() {
		create = append(create, "-o", o)
	}
	p.Do(append(create, "wide")...)
	p.Run("a", "--network", "wide")
	far.Attach(t)
	expect := func(count int) {
		t.Helper()
		harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), p.Station("a", "can0"), far.Box.On("can0")}, count, true)
		if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
			t.Error(wrong)
		}
	}
	expect(100)
	p.Do("restart", "--time", "0", "a")
	expect(10)
	p.Do("rm", "--force", "--time", "0", "a")
	harness.Vxcanctl(t, "remove", "vcan0")
	harness.ExpectNoTrunk(t)
}
