package harness

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// USBSetUpByUs is a network that has its CAN FD adapter set up.
const USBSetUpByUs = OnController + `,"bitrate":500000,"fd":true,"dbitrate":2000000`

// SetUpUSB does what the owner of an adapter does.
func SetUpUSB(t testing.TB, name string) {
	t.Helper()
	Command(t, "ip", "link", "set", name, "up", "txqueuelen", "4000",
		"type", "can", "bitrate", "500000", "dbitrate", "2000000", "fd", "on")
}

// Mixed are classic and FD frames by turns.
func Mixed(id uint32, count int) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		number := fmt.Sprintf("%08d", i)
		all = append(all, cantest.Frame{ID: id, Data: number},
			cantest.Frame{ID: id | unix.CAN_EFF_FLAG, FD: true, Data: strings.Repeat(number, 8)})
	}
	return all
}
