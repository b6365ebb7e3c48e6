// Package check tests one bus from its first container to its last, in seconds: make check runs it.
package check

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestBus: two containers and the host hear each other exactly once, also after the hub went and vxcanctl heal made it
// again. CHECK and status find nothing wrong, and the last DEL leaves the hub alone.
func TestBus(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}
	result, _ := harness.On(a).Add(t)
	harness.On(b).Add(t)
	harness.ExpectBus(t, "vcan0", 2)
	harness.ExpectExactlyOnce(t, stations, 100, true)

	harness.Command(t, "ip", "link", "del", "vcan0")
	if harness.WrongWith(t, "vcan0") == "" {
		t.Error("status finds nothing wrong without the hub")
	}
	harness.Vxcanctl(t, "heal")
	harness.ExpectBus(t, "vcan0", 2)
	harness.ExpectExactlyOnce(t, stations, 100, true)
	if err := harness.On(a).Check(t, result); err != nil {
		t.Error(err)
	}
	if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
		t.Error(wrong)
	}

	harness.On(a).OK(t, "DEL")
	harness.On(b).OK(t, "DEL")
	harness.ExpectUnused(t, "vcan0")
}
