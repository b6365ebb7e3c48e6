// Package once tests a CAN FD adapter on USB and two SJA1000 on PCI, on one kernel.
package once

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// replugUSB is a USB adapter, named by the .link file that conflist/ shows.
func replugUSB(t *testing.T) *harness.Replugged {
	const link = "10-can-engine.link"
	content, err := os.ReadFile(harness.Repo("conflist/controller/") + link)
	if err != nil {
		t.Fatal(err)
	}
	const serial = "004B00395246500E20393433"
	if !strings.Contains(string(content), serial) {
		t.Fatalf("no serial number %s in %s", serial, content)
	}
	harness.Command(t, "install", "-D", "-m", "644", "-t", "/etc/systemd/network", harness.Repo("conflist/controller/")+link)
	t.Cleanup(func() { os.Remove("/etc/systemd/network/" + link) })
	var adapter *cantest.USBAdapter
	r := &harness.Replugged{
		Name: "can-engine", SetUp: "type can bitrate 500000 dbitrate 2000000 fd on",
		Keys: `"bitrate":500000,"fd":true,"dbitrate":2000000`,
	}
	r.Plug = func() {
		if adapter == nil {
			adapter = cantest.NewUSBAdapter(t, "", serial)
		} else {
			adapter.Plug()
		}
	}
	r.Unplug = func() { adapter.Unplug() }
	r.Listen = func() *cantest.Listener { return adapter.Listen() }
	r.Send = func(f cantest.Frame) error { return adapter.Send(f) }
	return r
}

// replugSJA1000 is one of two PCI cards that bin/vm -qemu puts on one wire. The other one is the wire's end.
func replugSJA1000(t *testing.T) *harness.Replugged {
	const vendor = "0x10e8" // drivers/net/can/sja1000/kvaser_pci.c
	var cards []string
	all, err := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if id, _ := os.ReadFile(file); strings.TrimSpace(string(id)) == vendor {
			cards = append(cards, filepath.Dir(file))
		}
	}
	if len(cards) < 2 {
		t.Skip("needs two Kvaser PCI cards (bin/vm -qemu)")
	}
	card, err := filepath.EvalSymlinks(cards[0])
	if err != nil {
		t.Fatal(err)
	}
	harness.Write(t, card+"/remove", "1")
	harness.Command(t, "modprobe", "kvaser_pci")
	harness.Write(t, cards[1]+"/driver/unbind", filepath.Base(cards[1])) // to come again when udev is there
	r := &harness.Replugged{Name: "can1", SetUp: "txqueuelen 1000 type can bitrate 500000", Keys: `"bitrate":500000`}
	var sender *cantest.Sender
	r.Plug = func() {
		if sender == nil {
			harness.Write(t, "/sys/bus/pci/drivers/kvaser_pci/bind", filepath.Base(cards[1]))
			harness.Command(t, "ip", "link", "set", "can0", "up", "txqueuelen", "1000", "type", "can", "bitrate", "500000")
			harness.WaitForState(t, "can0", `"operstate":"UP"`)
			sender = cantest.NewSender(t, nil, "can0")
		}
		harness.Write(t, "/sys/bus/pci/rescan", "1")
	}
	r.Unplug = func() { harness.Write(t, card+"/remove", "1") }
	r.Listen = func() *cantest.Listener { return cantest.Listen(t, nil, "can0") }
	r.Send = func(f cantest.Frame) error {
		time.Sleep(5 * time.Millisecond) // the emulated controller holds few frames, and the bus knows no bit rate
		return sender.Send(f)
	}
	return r
}

// TestReplug: a CAN FD adapter and a PCI card are plugged in again, see harness.Replug.
func TestReplug(t *testing.T) {
	t.Run("gs_usb", func(t *testing.T) { harness.Replug(t, replugUSB, false) })
	if cantest.IsThorough() {
		t.Run("sja1000", func(t *testing.T) { harness.Replug(t, replugSJA1000, false) })
	}
}
