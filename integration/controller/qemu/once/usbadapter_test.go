package once

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterRestart: a device that is set down, or an adapter that is unplugged, while frames are on their way in both
// directions, afterwards takes and sends each new frame exactly once, and no old one.
func TestUSBAdapterRestart(t *testing.T) {
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	harness.SetUpUSB(t, "slot0")
	packets := func(direction string) int {
		t.Helper()
		text := strings.TrimSpace(harness.Command(t, "cat", "/sys/class/net/slot0/statistics/"+direction+"_packets"))
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const rounds, count = 10, 100
	for round := range rounds {
		if round%3 == 2 {
			adapter.Pace(cantest.Stopped) // ten frames stay in the adapter
		}
		sender, ended := cantest.NewSender(t, nil, "slot0"), make(chan bool)
		go func() {
			defer close(ended)
			for _, f := range harness.Numbered(3 * count) {
				if adapter.Send(f) != nil || sender.Send(f) != nil {
					return // the device went
				}
			}
		}()
		time.Sleep(time.Duration(round) * 5 * time.Millisecond)
		if round%2 == 0 {
			harness.Command(t, "ip", "link", "set", "slot0", "down")
		} else {
			adapter.Unplug()
		}
		<-ended
		sender.Close()
		adapter.Pace(cantest.Unlimited)
		rx, tx := 0, 0
		if round%2 == 0 {
			rx, tx = packets("rx"), packets("tx")
			harness.Command(t, "ip", "link", "set", "slot0", "up")
		} else {
			adapter.Plug()
			harness.SetUpUSB(t, "slot0")
		}
		wire, host := adapter.Listen(), cantest.Listen(t, nil, "slot0")
		sender = cantest.NewSender(t, nil, "slot0")
		fromWire, fromHost := harness.Mixed(0x100, count), harness.Mixed(0x200, count)
		for i := range fromWire {
			if err := adapter.Send(fromWire[i]); err != nil {
				t.Fatal(err)
			}
			if err := sender.Send(fromHost[i]); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(3*len(fromWire), wire, host)
		if got := host.InOrder(); !slices.Equal(got, fromWire) {
			t.Errorf("round %d: the host hears %d frames, want %d in order", round, len(got), len(fromWire))
		}
		if got := wire.InOrder(); !slices.Equal(got, fromHost) {
			t.Errorf("round %d: on the wire are %d frames, want %d in order", round, len(got), len(fromHost))
		}
		rx, tx = packets("rx")-rx, packets("tx")-tx
		// From 6.6 on the driver counts what it has sent as received, too.
		if (rx != len(fromWire) && rx != len(fromWire)+len(fromHost)) || tx != len(fromHost) {
			t.Errorf("round %d: the driver counts %d received, %d sent; want %d", round, rx, tx, len(fromWire))
		}
		wire.Close()
		host.Close()
		sender.Close()
	}
}

// TestUSBAdapters: two adapters on one wire, told apart by their serial numbers.
func TestUSBAdapters(t *testing.T) {
	a, b := cantest.NewUSBAdapter(t, "slot0", "A1B2C3"), cantest.NewUSBAdapter(t, "slot1", "D4E5F6")
	a.Connect(b)
	harness.SetUpUSB(t, "slot0")
	harness.SetUpUSB(t, "slot1")
	sent := harness.Mixed(0x300, 100)
	for _, way := range [][2]string{{"slot0", "slot1"}, {"slot1", "slot0"}} {
		sender, there := cantest.NewSender(t, nil, way[0]), cantest.Listen(t, nil, way[1])
		for _, f := range sent {
			if err := sender.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(len(sent), there)
		if got := there.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("%s hears %d frames of %d, or in another order", way[1], len(got), len(sent))
		}
		there.Close()
	}
}

// TestUSBAdapterBus: four containers, the host and the wire of a CAN FD controller each hear every frame of the others
// exactly once.
func TestUSBAdapterBus(t *testing.T) {
	harness.FreshHost(t)
	harness.Write(t, "/proc/sys/net/core/netdev_max_backlog", "65536") // as make install sets it
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	harness.SetUpUSB(t, "slot0")
	harness.Command(t, "ip", "link", "set", "slot0", "txqueuelen", "20000") // for all that five stations send at once
	parties := []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t)}
	for i := range 4 {
		c := harness.NewContainer(t, fmt.Sprintf("c%d", i))
		harness.On(c).With(harness.OnController + `,"mtu":72`).Add(t)
		parties = append(parties, c.On("can0").Party(t))
	}
	harness.Exchange(t, parties, 1000, true)
}
