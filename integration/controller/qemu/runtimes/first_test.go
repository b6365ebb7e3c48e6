// Package runtimes tests a controller on real hardware's drivers with Docker and Podman.
package runtimes

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterFirst is TestControllerDocker and TestControllerPodman with a CAN FD adapter.
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
	first("Podman", func(t *testing.T) (station harness.Station, ok bool) {
		p, ok := harness.PodmanFromNothing(t, options...)
		if ok {
			station = p.Station("c", "can0")
		}
		return station, ok
	})
}
