package qemu

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterBurst is TestControllerBurst with a CAN FD adapter, on two CPUs, where the order is only logged: some bursts
// arrive in another order. The likely cause, not proven, is a sender that changes its CPU and so the backlog that it fills.
func TestUSBAdapterBurst(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.USBSetUpByUs).Add(t)
	for rate, count := range harness.Bursts {
		wire, sent := adapter.Listen(), harness.Mixed(0x100, count/2)
		adapter.Pace(rate)
		harness.SendAll(t, a, sent)
		if rate == cantest.Stopped {
			adapter.Pace(cantest.Unlimited)
		}
		cantest.WaitQuiet(len(sent), wire)
		got := wire.InOrder()
		if len(got) == len(sent) && !slices.Equal(got, sent) {
			t.Logf("rate %d: in another order", rate)
		}
		if heard, _ := wire.Heard(); len(got) != len(sent) || slices.ContainsFunc(sent, func(f cantest.Frame) bool { return heard[f] != 1 }) {
			handled, dropped := harness.ToHub(t, "slot0")
			t.Errorf("rate %d: %d frames of %d are on the wire, or other ones; the rule to the hub: %d handled, %d dropped; %s",
				rate, len(got), len(sent), handled, dropped, harness.Command(t, "sh", "-c", "tc -s qdisc show dev slot0; cat /proc/net/softnet_stat"))
		}
		wire.Close()
	}
}

// TestSJA1000Bus: four containers and the host on a controller that the network sets up, and another node on the wire, each
// hear every frame of the others exactly once.
func TestSJA1000Bus(t *testing.T) {
	harness.FreshHost(t)
	hub, wire := harness.SJA1000(t)
	harness.Write(t, "/proc/sys/net/core/netdev_max_backlog", "65536") // as make install sets it
	harness.Command(t, "ip", "link", "set", wire, "up", "txqueuelen", "1000", "type", "can", "bitrate", "500000")
	network := fmt.Sprintf(`"hub":%q,"physical":true,"bitrate":500000`, hub)
	var boxes []*harness.Container
	var result []func() error
	for i := range 4 {
		c := harness.NewContainer(t, fmt.Sprintf("c%d", i))
		r, _ := harness.On(c).With(network).Add(t)
		boxes = append(boxes, c)
		result = append(result, func() error { return harness.On(c).With(network).Check(t, r) })
	}
	harness.WaitForState(t, hub, `"bitrate":500000`, `"txqlen":1000`)
	// The emulated receive FIFOs hold about four frames, so no more are on their way at once, in each direction.
	there, here := harness.Station{Name: "wire", Netns: nil, IfName: wire}.Party(t), harness.Host(hub).Party(t)
	toHub, toWire := atMost(3, here.Listener), atMost(3, there.Listener)
	there.Send, here.Send = toHub(there.Send), toWire(here.Send)
	parties := []harness.Party{there, here}
	for _, c := range boxes {
		p := c.On("can0").Party(t)
		p.Send = toWire(p.Send)
		parties = append(parties, p)
	}
	start := time.Now()
	harness.Exchange(t, parties, 500, false) // 1000 frames of each
	t.Logf("took %v", time.Since(start))
	for _, check := range result {
		if err := check(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{hub, wire} {
		t.Logf("%s", harness.Command(t, "ip", "-s", "-s", "link", "show", "dev", name))
	}
}

// atMost has senders wait until a listener lacks fewer than most of their frames.
func atMost(most int, l *cantest.Listener) func(send func(cantest.Frame) error) func(cantest.Frame) error {
	var mu sync.Mutex
	var waiting []cantest.Frame
	return func(send func(cantest.Frame) error) func(cantest.Frame) error {
		return func(f cantest.Frame) error {
			mu.Lock()
			defer mu.Unlock()
			for deadline := time.Now().Add(5 * time.Second); len(waiting) >= most; {
				waiting = slices.DeleteFunc(waiting, l.Has)
				if time.Now().After(deadline) {
					waiting = nil // lost, as the test then finds
				}
				runtime.Gosched()
			}
			waiting = append(waiting, f)
			return send(f)
		}
	}
}
