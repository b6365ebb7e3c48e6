package once

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterDocker is TestControllerDocker with a CAN FD adapter.
func TestUSBAdapterDocker(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	c := harness.DockerFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000")
	harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), c.On("can0").Party(t)}, 50, true)
}

// TestUSBAdapterPodman is TestUSBAdapterDocker with Podman.
func TestUSBAdapterPodman(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	if p, ok := harness.PodmanFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000"); ok {
		harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), p.Station("c", "can0").Party(t)}, 50, true)
	}
}
