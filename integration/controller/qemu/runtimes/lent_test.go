package runtimes

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestSJA1000Lent: a user's container is on a controller that root lends. It sends what the consent says, and hears the wire
// and the error frames of the controller, also after that was unplugged and plugged in again.
func TestSJA1000Lent(t *testing.T) {
	harness.FreshHost(t)
	hub, wire := harness.SJA1000(t)
	harness.NewUser(t)
	harness.Lends(t)
	setUpWire := func() {
		harness.Command(t, "ip", "link", "set", wire, "up", "txqueuelen", "1000", "type", "can", "bitrate", "500000")
	}
	setUpWire()
	harness.Vxcanctl(t, "lend", hub, "--user", harness.RootlessUser, "--physical", "--bitrate", "500000", "--send", "100-1FF")
	c := harness.NewUserContainer(t, "c")
	harness.OnLent(c).With(fmt.Sprintf(`"hub":%q`, hub)).Add(t)
	box, node := c.On("can0"), harness.Station{Name: "wire", IfName: wire}
	fromBox, inBox := cantest.NewSender(t, c.Netns, "can0"), cantest.Listen(t, c.Netns, "can0")
	for round, when := range []string{"at first", "plugged in again"} {
		if round > 0 {
			card := pciCard(t, hub)
			harness.Write(t, "/sys/bus/pci/drivers/kvaser_pci/unbind", card)
			if err := fromBox.Send(cantest.Frame{ID: 0x100, Data: "away"}); err != nil {
				t.Errorf("unplugged, the container cannot send: %v", err)
			}
			harness.Write(t, "/sys/bus/pci/drivers/kvaser_pci/bind", card)
			harness.Vxcanctl(t, "heal", hub)
		}
		harness.WaitForState(t, hub, `"bitrate":500000`, `"operstate":"UP"`)
		harness.ExpectPass(t, box, node, true, false)
		harness.ExpectPass(t, node, box, true, true)

		onHost, onBox, nodeSender := cantest.ListenErrors(t, nil, hub), cantest.ListenErrors(t, c.Netns, "can0"), cantest.NewSender(t, nil, wire)
		for range 300 { // far more than the emulated receive FIFO holds
			if err := nodeSender.Send(cantest.Frame{ID: 0x7e8, Data: "12345678"}); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(2, onHost, onBox)
		time.Sleep(time.Second)
		host, _ := onHost.Heard()
		heard, _ := onBox.Heard()
		t.Logf("%s: error frames on the host %v", when, host)
		if overruns(host) == 0 || !maps.Equal(host, heard) {
			t.Errorf("%s: the container hears %v, want as the host overruns of the controller", when, heard)
		}
		onHost.Close()
		onBox.Close()
		nodeSender.Close()

		// The socket from before.
		frame := cantest.Frame{ID: 0x321, Data: when[:8]}
		if err := cantest.SendOnce(wire, frame); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); !inBox.Has(frame) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
		if got, _ := inBox.Heard(); got[frame] != 1 {
			t.Errorf("%s: the container's first socket hears a frame of the wire %d times", when, got[frame])
		}
	}
}

// pciCard is the address of the card that a device is on.
func pciCard(t *testing.T, device string) string {
	t.Helper()
	card, err := filepath.EvalSymlinks("/sys/class/net/" + device + "/device")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(card)
}

// overruns counts the error frames that tell of lost frames (linux/can/error.h, CAN_ERR_CRTL_RX_OVERFLOW).
func overruns(all map[cantest.Frame]int) (n int) {
	for f, times := range all {
		if f.ID&(unix.CAN_ERR_FLAG|unix.CAN_ERR_CRTL) == unix.CAN_ERR_FLAG|unix.CAN_ERR_CRTL && len(f.Data) > 1 && f.Data[1] == 1 {
			n += times
		}
	}
	return n
}
