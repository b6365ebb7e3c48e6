// Package podman tests Podman with either of its network backends, and the netavark plugin alone.
package podman

import (
	"encoding/json"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPodman: run, restart, reload, stop and remove, two buses, inspect, with either of Podman's network backends.
func TestPodman(t *testing.T) {
	harness.FreshHost(t)
	p := harness.NewPodman(t, "canbus0", "canbus1")
	p.Run("a", "--network", "canbus0")
	p.Run("b", "--network", "canbus0", "--restart", "always")
	host := harness.Host("vcan0")
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0"), p.Station("b", "can0")}, 50, true)

	var networks []struct{ Name, Driver string }
	if err := json.Unmarshal([]byte(p.Do("network", "inspect", "canbus0")), &networks); err != nil {
		t.Fatal(err)
	}
	if len(networks) != 1 || networks[0].Name != "canbus0" || networks[0].Driver != "vxcan" {
		t.Errorf("podman network inspect: %v", networks)
	}

	p.Do("restart", "a")
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0"), p.Station("b", "can0")}, 50, true)
	harness.ExpectBus(t, "vcan0", 2)

	// One container on two buses, and a name that was asked for.
	p.Run("both", "--network", "canbus0:interface_name=can5", "--network", "canbus1")
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0"), p.Station("both", "can5")}, 5, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), p.Station("both", "can1")}, 5, true)

	p.Do("network", "reload", "a")
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0"), p.Station("b", "can0")}, 5, true)

	// Each name stays on its bus, though Podman calls for the networks in any order.
	p.Network("numbered2", "vcan2")
	p.Network("numbered3", "vcan3")
	p.Run("named", "--network", "canbus0", "--network", "numbered3", "--network", "numbered2")
	harness.ExpectNamesStay(t, map[string]string{"can0": "vcan0", "can2": "vcan2", "can3": "vcan3"},
		func() { p.Do("restart", "named") }, func(ifName string) harness.Station { return p.Station("named", ifName) })

	p.Do("stop", "a", "b", "both", "named")
	harness.ExpectUnused(t, "vcan0", "vcan1", "vcan2", "vcan3")
	p.Do("rm", "a", "b", "both", "named")
}
