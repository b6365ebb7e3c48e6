package qemu

import (
	"fmt"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterFair is TestControllerFair with a CAN FD adapter, on two CPUs.
func TestUSBAdapterFair(t *testing.T) {
	for name, conf := range map[string]string{"one queue for all": harness.OnController, "set up by us": harness.USBSetUpByUs} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
			if conf == harness.OnController {
				harness.Command(t, "ip", "link", "set", "slot0", "up", "txqueuelen", "1000", "type", "can", "bitrate", "500000", "dbitrate", "2000000", "fd", "on")
			}
			var boxes []*harness.Container
			for i := range 4 {
				box := harness.NewContainer(t, fmt.Sprint("c", i))
				harness.On(box).With(conf).Add(t)
				boxes = append(boxes, box)
			}
			sent := harness.FloodAndSend(t, adapter, boxes)
			if got := sent[0x100]; (got == harness.Few) != (conf != harness.OnController) {
				t.Errorf("%d of the %d frames of the quiet container are on the wire", got, harness.Few)
			}
			if conf != harness.OnController {
				harness.ExpectEqualShares(t, sent)
			}
		})
	}
}
