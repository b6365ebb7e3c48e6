// Package integration tests the binaries as their users run them: real kernels, real runtimes, frames that arrive.
// What the tests expect, they ask of ip, cangw and CAN sockets, never of the code under test.
package integration

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
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

// TestBurst: a burst of frames in one go, as a controller's driver or a sender that outruns ksoftirqd has it. With the
// kernel's own backlog 30 containers lose some of it. ADD says so once and changes nothing; with the value that make install
// ships nothing is lost and nothing said.
func TestBurst(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("changes a setting of the whole machine")
	}
	freshHost(t)
	const backlog = "/proc/sys/net/core/netdev_max_backlog"
	before, err := os.ReadFile(backlog)
	if err != nil {
		t.Fatal(err)
	}
	set := func(value string) { write(t, backlog, value) }
	t.Cleanup(func() { set(string(before)) })
	set("1000") // the kernel's default
	const containers = 30
	var all []*container
	for i := range containers {
		all = append(all, newContainer(t, fmt.Sprintf("c%d", i)))
		_, log := on(all[i]).add(t)
		if said := strings.Contains(log, "netdev_max_backlog is 1000"); said != (i == 1) || said && !strings.Contains(log, "sudo sysctl -w net.core.netdev_max_backlog=65536") {
			t.Errorf("log with %d endpoints: %s", i+1, log)
		}
	}
	if now, err := os.ReadFile(backlog); err != nil || string(now) != "1000\n" {
		t.Errorf("a backlog of 1000 has become %s (%v)", now, err)
	}
	command(t, "tc", "qdisc", "add", "dev", "vcan0-tx", "root", "plug", "limit", "1000000")
	burst := func() (lost int) {
		first, last := cantest.Listen(t, all[0].netns, "can0"), cantest.Listen(t, all[containers-1].netns, "can0")
		defer first.Close()
		defer last.Close()
		sender := cantest.NewSender(t, nil, "vcan0")
		defer sender.Close()
		command(t, "tc", "qdisc", "change", "dev", "vcan0-tx", "root", "plug", "block")
		sent := frames(0, 200, false)
		for _, f := range sent {
			if err := sender.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		command(t, "tc", "qdisc", "change", "dev", "vcan0-tx", "root", "plug", "release_indefinite")
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
	if err := applySysctl("../plugins/vxcan/40-vxcan.conf"); err != nil {
		t.Fatal(err)
	}
	if lost := burst(); lost != 0 {
		t.Errorf("%d frames of a burst lost with the backlog that make install ships", lost)
	}
	if _, log := on(all[0]).add(t); strings.Contains(log, "netdev_max_backlog") {
		t.Errorf("log with that backlog: %s", log)
	}
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

// party is a station with what it hears and how it sends.
type party struct {
	name     string
	listener *cantest.Listener
	send     func(cantest.Frame) error
	echo     bool // hears its own frames as its own
}

func (s station) party(t *testing.T) party {
	t.Helper()
	sender := cantest.NewSender(t, s.netns, s.ifName)
	return party{s.name, cantest.Listen(t, s.netns, s.ifName), sender.Send, true}
}

// expectExactlyOnce lets every station send and fails the test unless everybody hears everything exactly once.
func expectExactlyOnce(t *testing.T, stations []station, count int, fd bool) {
	t.Helper()
	var all []party
	for _, s := range stations {
		all = append(all, s.party(t))
	}
	exchange(t, all, count, fd)
}

// exchange is expectExactlyOnce for parties, which it closes the listeners of.
func exchange(t *testing.T, parties []party, count int, fd bool) {
	t.Helper()
	var listeners []*cantest.Listener
	var senders sync.WaitGroup
	want := 0
	for i, p := range parties {
		defer p.listener.Close()
		listeners = append(listeners, p.listener)
		want += len(parties) * len(frames(i, count, fd))
		if !p.echo {
			want -= len(frames(i, count, fd))
		}
	}
	for i, p := range parties {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for _, f := range frames(i, count, fd) {
				if err := p.send(f); err != nil {
					t.Errorf("%s: send: %v", p.name, err)
					return
				}
			}
		}()
	}
	senders.Wait()
	cantest.WaitQuiet(want, listeners...)
	heard := 0
	for i, l := range listeners {
		foreign, own := l.Heard()
		for j, from := range parties {
			lost, doubled := 0, 0
			for _, f := range frames(j, count, fd) {
				n := foreign[f]
				if i == j {
					if n != 0 {
						t.Fatalf("%s hears its own frame %v as a foreign one", from.name, f)
					}
					if !from.echo {
						continue
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
				t.Errorf("%s from %s: %d frames lost, %d doubled", parties[i].name, from.name, lost, doubled)
			}
		}
		if len(foreign) > 0 {
			t.Errorf("%s hears %d frames that nobody sent", parties[i].name, len(foreign))
		}
	}
	t.Logf("%d stations, %d frames sent, %d heard", len(parties), len(parties)*len(frames(0, count, fd)), heard)
}
