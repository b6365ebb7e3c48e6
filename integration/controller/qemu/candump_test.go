package qemu

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterCandump is TestControllerCandump with a CAN FD adapter.
func TestUSBAdapterCandump(t *testing.T) {
	harness.FreshHost(t)
	adapter, a := cantest.NewUSBAdapter(t, "slot0", "A1B2C3"), harness.NewContainer(t, "a")
	harness.On(a).With(harness.USBSetUpByUs).Add(t)
	onHost, inA := harness.StartCandump(t, nil, "slot0", 3), harness.StartCandump(t, a, "can0", 3)
	if err := adapter.Send(cantest.Frame{ID: unix.CAN_ERR_FLAG | unix.CAN_ERR_ACK, Data: strings.Repeat("\x00", 8)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		state  cantest.State
		tx, rx uint8
	}{{cantest.ErrorPassive, 128, 5}, {cantest.BusOff, 248, 0}} {
		if err := adapter.SetState(c.state, c.tx, c.rx); err != nil {
			t.Fatal(err)
		}
	}
	harness.ExpectSame(t, onHost(), inA(), "no-acknowledgement-on-tx", "bus-off")
}
