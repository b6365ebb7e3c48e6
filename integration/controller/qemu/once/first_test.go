package once

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterFirst is TestControllerDocker with a CAN FD adapter, and where tests are to be thorough, TestControllerPodman too.
func TestUSBAdapterFirst(t *testing.T) {
	options := []string{"bitrate=500000", "fd=true", "dbitrate=2000000"}
	first := func(name string, start func(t *testing.T) (station harness.Station, ok bool)) {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
			if container, ok := start(t); ok {
				wire := harness.Party{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}
				harness.Exchange(t, []harness.Party{wire, harness.Host("slot0").Party(t), container.Party(t)}, 50, true)
			}
		})
	}
	first("Docker", func(t *testing.T) (harness.Station, bool) {
		return harness.DockerFromNothing(t, options...).On("can0"), true
	})
	if cantest.IsThorough() {
		first("Podman", func(t *testing.T) (station harness.Station, ok bool) {
			p, ok := harness.PodmanFromNothing(t, options...)
			if ok {
				station = p.Station("c", "can0")
			}
			return station, ok
		})
	}
}
