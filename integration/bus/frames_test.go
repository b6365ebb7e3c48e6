// Package bus tests one bus, and two, with the plugin alone: what depends on the kernel of a Debian release.
package bus

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestFrames: four containers and the host on one bus, each sends 1000 numbered classic, extended and FD frames at the
// same time as the others. Everybody hears every frame of the others exactly once and none of its own as a foreign one.
func TestFrames(t *testing.T) {
	harness.FreshHost(t)
	stations := []harness.Station{harness.Host("vcan0")}
	for i := range 4 {
		c := harness.NewContainer(t, fmt.Sprintf("c%d", i))
		harness.On(c).Add(t)
		stations = append(stations, c.On("can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 1000, true)
}

// TestBurst: a burst of frames in one go, as a controller's driver or a sender that outruns ksoftirqd has it. With the
// kernel's own backlog 30 containers lose some of it. ADD says so once and changes nothing; with the value that make install
// ships nothing is lost and nothing said.
func TestBurst(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("changes a setting of the whole machine")
	}
	harness.FreshHost(t)
	const backlog = "/proc/sys/net/core/netdev_max_backlog"
	before, err := os.ReadFile(backlog)
	if err != nil {
		t.Fatal(err)
	}
	set := func(value string) { harness.Write(t, backlog, value) }
	t.Cleanup(func() { set(string(before)) })
	set("1000") // the kernel's default
	const containers = 30
	var all []*harness.Container
	for i := range containers {
		all = append(all, harness.NewContainer(t, fmt.Sprintf("c%d", i)))
		_, log := harness.On(all[i]).Add(t)
		if said := strings.Contains(log, "netdev_max_backlog is 1000"); said != (i == 1) || said && !strings.Contains(log, "sudo sysctl -w net.core.netdev_max_backlog=65536") {
			t.Errorf("log with %d endpoints: %s", i+1, log)
		}
	}
	if now, err := os.ReadFile(backlog); err != nil || string(now) != "1000\n" {
		t.Errorf("a backlog of 1000 has become %s (%v)", now, err)
	}
	harness.Command(t, "tc", "qdisc", "add", "dev", "vcan0-tx", "root", "plug", "limit", "1000000")
	burst := func() (lost int) {
		first, last := cantest.Listen(t, all[0].Netns, "can0"), cantest.Listen(t, all[containers-1].Netns, "can0")
		defer first.Close()
		defer last.Close()
		sender := cantest.NewSender(t, nil, "vcan0")
		defer sender.Close()
		harness.Command(t, "tc", "qdisc", "change", "dev", "vcan0-tx", "root", "plug", "block")
		sent := harness.Frames(0, 200, false)
		for _, f := range sent {
			if err := sender.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		harness.Command(t, "tc", "qdisc", "change", "dev", "vcan0-tx", "root", "plug", "release_indefinite")
		cantest.WaitQuiet(2*len(sent), first, last)
		for _, l := range []*cantest.Listener{first, last} {
			heard, _ := l.Heard()
			for _, f := range sent {
				if n := heard[f]; n == 0 {
					lost++
				} else if n > 1 {
					t.Errorf("frame %v heard %d times", f, n)
				}
			}
		}
		return lost
	}
	if lost := burst(); lost == 0 {
		t.Error("no frame lost with the default backlog: does this kernel need another one?")
	} else {
		t.Logf("with the default backlog %d frames of a burst are lost", lost)
	}
	if err := harness.ApplySysctl(harness.Repo("plugins/vxcan/40-vxcan.conf")); err != nil {
		t.Fatal(err)
	}
	if lost := burst(); lost != 0 {
		t.Errorf("%d frames of a burst lost with the backlog that make install ships", lost)
	}
	if _, log := harness.On(all[0]).Add(t); strings.Contains(log, "netdev_max_backlog") {
		t.Errorf("log with that backlog: %s", log)
	}
}
