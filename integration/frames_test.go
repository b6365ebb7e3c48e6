// Package integration tests the binaries as their users run them: real kernels, real runtimes, frames that arrive.
// What the tests expect, they ask of ip, cangw and CAN sockets, never of the code under test.
package integration

import (
	"fmt"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/cantest"
)

// TestFrames: four containers and the host on one bus, each sends 1000 numbered classic, extended and FD frames at the
// same time as the others. Everybody hears every frame of the others exactly once and none of its own as a foreign one.
func TestFrames(t *testing.T) {
	freshHost(t)
	stations := []station{{"host", nil, "vcan0"}}
	for i := range 4 {
		c := newContainer(t, fmt.Sprintf("c%d", i))
		on(c).add(t)
		stations = append(stations, station{c.id, c.netns, "can0"})
	}
	expectExactlyOnce(t, stations, 1000, true)
}

// station is where frames are sent and heard.
type station struct {
	name   string
	netns  ns.NetNS // nil is the host's
	ifName string
}

// frames are what the station with this number sends: numbered classic, extended and, if fd, FD frames.
func frames(number, count int, fd bool) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		data := fmt.Sprintf("%02x%06x", number, i)
		all = append(all,
			cantest.Frame{ID: 0x100 + uint32(number), Data: data},
			cantest.Frame{ID: (0x10000 + uint32(number)) | unix.CAN_EFF_FLAG, Data: data})
		if fd {
			all = append(all, cantest.Frame{ID: 0x200 + uint32(number), FD: true, Data: data + "0123456789ab"})
		}
	}
	return all
}

// expectExactlyOnce lets every station send and fails the test unless everybody hears everything exactly once.
func expectExactlyOnce(t *testing.T, stations []station, count int, fd bool) {
	t.Helper()
	listeners := make([]*cantest.Listener, len(stations))
	for i, s := range stations {
		listeners[i] = cantest.Listen(t, s.netns, s.ifName)
		defer listeners[i].Close()
	}
	var senders sync.WaitGroup
	for i, s := range stations {
		sender := cantest.NewSender(t, s.netns, s.ifName)
		defer sender.Close()
		senders.Go(func() {
			for _, f := range frames(i, count, fd) {
				if err := sender.Send(f); err != nil {
					t.Errorf("%s: send: %v", s.name, err)
					return
				}
			}
		})
	}
	senders.Wait()
	cantest.WaitQuiet(len(stations)*len(stations)*len(frames(0, count, fd)), listeners...)
	heard := 0
	for i, l := range listeners {
		foreign, own := l.Heard()
		for j, from := range stations {
			lost, doubled := 0, 0
			for _, f := range frames(j, count, fd) {
				n := foreign[f]
				if i == j {
					if n != 0 {
						t.Fatalf("%s hears its own frame %v as a foreign one", from.name, f)
					}
					n = own[f]
				}
				heard += n
				delete(foreign, f)
				switch {
				case n == 0:
					lost++
				case n > 1:
					doubled++
				}
			}
			if lost+doubled > 0 {
				t.Errorf("%s from %s: %d frames lost, %d doubled", stations[i].name, from.name, lost, doubled)
			}
		}
		if len(foreign) > 0 {
			t.Errorf("%s hears %d frames that nobody sent", stations[i].name, len(foreign))
		}
	}
	t.Logf("%d stations, %d frames sent, %d heard", len(stations), len(stations)*len(frames(0, count, fd)), heard)
}
