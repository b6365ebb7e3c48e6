package once

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// replugSLCAN is a serial adapter.
func replugSLCAN(t *testing.T) *harness.Replugged {
	var adapter *cantest.Controller
	r := &harness.Replugged{Name: "slot-0", SetUp: "txqueuelen 1000 type can bitrate 500000", Keys: `"bitrate":500000`}
	r.Plug = func() { adapter = cantest.NewController(t, r.Name) }
	r.Unplug = func() { adapter.Unplug() }
	r.Listen = func() *cantest.Listener { return adapter.Listen() }
	r.Send = func(f cantest.Frame) error { return adapter.Send(f) }
	return r
}

// TestReplug: a serial adapter is plugged in again, see harness.Replug.
func TestReplug(t *testing.T) {
	if cantest.IsThorough() { // else the adapters of the emulated PC stand for it
		t.Run("slcan", func(t *testing.T) { harness.Replug(t, replugSLCAN, false) })
	}
	// The owner, systemd-networkd say, may be slower than our repair.
	t.Run("slcan, set up by its owner", func(t *testing.T) { harness.Replug(t, replugSLCAN, true) })
}
