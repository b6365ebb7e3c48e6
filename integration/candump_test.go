package integration

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// errorLines are what a serial adapter says of an acknowledge error, of being error-passive and of bus-off, and errorWords
// what candump -e shows of it. The second frame says CAN_ERR_CRTL_RX_PASSIVE and the counters, by CAN_ERR_CNT, which the
// candump of Debian 12 does not know (linux/can/error.h).
var (
	errorLines = []string{"e1a\r", "sp128000\r", "sb256000\r"}
	errorWords = []string{"no-acknowledgement-on-tx", "20000204   [8]  00 10 00 00 00 00 00 80   ERRORFRAME", "bus-off"}
)

// expectSame fails the test unless candump shows the same error frames in a container as on the host, with these words.
func expectSame(t *testing.T, onHost, inContainer string, words ...string) {
	t.Helper()
	t.Logf("candump -e in the container:\n%s", inContainer)
	same := func(text string) string { return strings.ReplaceAll(strings.ReplaceAll(text, "slot0", ""), "can0", "") }
	if strings.Join(strings.Fields(same(inContainer)), " ") != strings.Join(strings.Fields(same(onHost)), " ") {
		t.Errorf("candump -e on the host:\n%s", onHost)
	}
	if !strings.Contains(inContainer, "Error class 0x204 is invalid") { // by an old candump
		words = append(words, "error-passive")
	}
	for _, w := range words {
		if !strings.Contains(inContainer, w) {
			t.Errorf("candump says no %s", w)
		}
	}
}

// TestControllerCandump: what a container's candump -e shows of a serial adapter's errors is what the host's shows.
func TestControllerCandump(t *testing.T) {
	freshHost(t)
	controller, a := cantest.NewController(t, "slot0"), newContainer(t, "a")
	on(a).with(setUpByUs).add(t)
	onHost, inA := startCandump(t, nil, "slot0", len(errorLines)), startCandump(t, a, "can0", len(errorLines))
	for _, line := range errorLines {
		if err := controller.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
	}
	expectSame(t, onHost(), inA(), errorWords...)
}

// TestUSBAdapterCandump is TestControllerCandump with a CAN FD adapter.
func TestUSBAdapterCandump(t *testing.T) {
	freshHost(t)
	adapter, a := cantest.NewUSBAdapter(t, "slot0", "A1B2C3"), newContainer(t, "a")
	on(a).with(usbSetUpByUs).add(t)
	onHost, inA := startCandump(t, nil, "slot0", 3), startCandump(t, a, "can0", 3)
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
	expectSame(t, onHost(), inA(), "no-acknowledgement-on-tx", "bus-off")
}
