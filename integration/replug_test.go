package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// replugged is a controller that a test plugs and unplugs, and another node on its wire.
type replugged struct {
	name         string // of the device, once udev has named it
	plug, unplug func()
	listen       func() *cantest.Listener // on the wire; those from before may hear nothing after a plug
	send         func(cantest.Frame) error
	setUp        string // arguments of `ip link set`, for an owner that sets it up
	keys         string // of a network, for us to set it up
}

// replugSLCAN is a serial adapter.
func replugSLCAN(t *testing.T) *replugged {
	var adapter *cantest.Controller
	r := &replugged{name: "slot-0", setUp: "txqueuelen 1000 type can bitrate 500000", keys: `"bitrate":500000`}
	r.plug = func() { adapter = cantest.NewController(t, r.name) }
	r.unplug = func() { adapter.Unplug() }
	r.listen = func() *cantest.Listener { return adapter.Listen() }
	r.send = func(f cantest.Frame) error { return adapter.Send(f) }
	return r
}

// replugUSB is a USB adapter, named by the .link file that conflist/ shows.
func replugUSB(t *testing.T) *replugged {
	const link = "10-can-engine.link"
	content, err := os.ReadFile("../conflist/controller/" + link)
	if err != nil {
		t.Fatal(err)
	}
	const serial = "004B00395246500E20393433"
	if !strings.Contains(string(content), serial) {
		t.Fatalf("no serial number %s in %s", serial, content)
	}
	command(t, "install", "-D", "-m", "644", "-t", "/etc/systemd/network", "../conflist/controller/"+link)
	t.Cleanup(func() { os.Remove("/etc/systemd/network/" + link) })
	var adapter *cantest.USBAdapter
	r := &replugged{
		name: "can-engine", setUp: "type can bitrate 500000 dbitrate 2000000 fd on",
		keys: `"bitrate":500000,"fd":true,"dbitrate":2000000`,
	}
	r.plug = func() {
		if adapter == nil {
			adapter = cantest.NewUSBAdapter(t, "", serial)
		} else {
			adapter.Plug()
		}
	}
	r.unplug = func() { adapter.Unplug() }
	r.listen = func() *cantest.Listener { return adapter.Listen() }
	r.send = func(f cantest.Frame) error { return adapter.Send(f) }
	return r
}

// replugSJA1000 is one of two PCI cards that bin/vm -qemu puts on one wire. The other one is the wire's end.
func replugSJA1000(t *testing.T) *replugged {
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
	write(t, card+"/remove", "1")
	command(t, "modprobe", "kvaser_pci")
	write(t, cards[1]+"/driver/unbind", filepath.Base(cards[1])) // to come again when udev is there
	r := &replugged{name: "can1", setUp: "txqueuelen 1000 type can bitrate 500000", keys: `"bitrate":500000`}
	var sender *cantest.Sender
	r.plug = func() {
		if sender == nil {
			write(t, "/sys/bus/pci/drivers/kvaser_pci/bind", filepath.Base(cards[1]))
			command(t, "ip", "link", "set", "can0", "up", "txqueuelen", "1000", "type", "can", "bitrate", "500000")
			waitForState(t, "can0", `"operstate":"UP"`)
			sender = cantest.NewSender(t, nil, "can0")
		}
		write(t, "/sys/bus/pci/rescan", "1")
	}
	r.unplug = func() { write(t, card+"/remove", "1") }
	r.listen = func() *cantest.Listener { return cantest.Listen(t, nil, "can0") }
	r.send = func(f cantest.Frame) error {
		time.Sleep(5 * time.Millisecond) // the emulated controller holds few frames, and the bus knows no bit rate
		return sender.Send(f)
	}
	return r
}

// TestReplug: a serial adapter is plugged in again, see replug.
func TestReplug(t *testing.T) {
	t.Run("slcan", func(t *testing.T) { testReplug(t, replugSLCAN, false) })
	// The owner, systemd-networkd say, may be slower than our repair.
	t.Run("slcan, set up by its owner", func(t *testing.T) { testReplug(t, replugSLCAN, true) })
}

// TestReplugPlugged: a CAN FD adapter and a PCI card are plugged in again, see replug.
func TestReplugPlugged(t *testing.T) {
	t.Run("gs_usb", func(t *testing.T) { testReplug(t, replugUSB, false) })
	t.Run("sja1000", func(t *testing.T) { testReplug(t, replugSJA1000, false) })
}

// isUp tells whether a device is there and up (IFF_UP, linux/if.h).
func isUp(name string) bool {
	text, _ := os.ReadFile("/sys/class/net/" + name + "/flags")
	flags, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
	return err == nil && flags&unix.IFF_UP != 0
}

// testReplug: when a controller is plugged in again, udev and systemd have its bus repaired, and the controller set up as
// the containers' network says. Sockets that containers opened before hear the wire, and are heard there, although no
// container starts. Devices of our own start nothing.
func testReplug(t *testing.T, newController func(*testing.T) *replugged, byOwner bool) {
	const rounds, count = 5, 10
	freshHost(t)
	r := newController(t)
	s := startSystemd(t)
	conf := fmt.Sprintf(`"hub":%q,"physical":true`, r.name)
	if byOwner {
		command(t, "mkdir", "-p", "/run/udev/rules.d")
		write(t, "/run/udev/rules.d/95-set-up.rules", `ACTION!="remove", SUBSYSTEM=="net", ATTR{type}=="280", `+
			`ENV{ID_NET_DRIVER}!="vcan|vxcan", RUN+="/bin/sh -c 'sleep 0.5; ip link set $name up `+r.setUp+`'"`+"\n")
		s.run("udevadm", "control", "--reload")
	} else {
		conf += "," + r.keys
	}
	r.plug()
	s.waitFor(r.name, func() bool {
		return !byOwner && slices.ContainsFunc(links(t), func(l link) bool { return l.Name == r.name }) || isUp(r.name)
	})
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).with(conf).add(t)
	on(b).with(conf).add(t)
	if queue := strings.TrimSpace(command(t, "cat", "/sys/class/net/"+r.name+"/tx_queue_len")); queue != "1000" {
		t.Errorf("the queue of %s is %s, want 1000", r.name, queue)
	}
	fromA, inA, inB := cantest.NewSender(t, a.netns, "can0"), cantest.Listen(t, a.netns, "can0"), cantest.Listen(t, b.netns, "can0")
	var took []time.Duration
	for round := range rounds {
		frame := func(id uint32, i int) cantest.Frame {
			return cantest.Frame{ID: id, Data: fmt.Sprintf("%04d%04d", round, i)}
		}
		for range 1 + round%2*9 { // a loose contact
			r.unplug()
			r.plug()
		}
		r.unplug()
		if err := fromA.Send(frame(0x100, 9999)); err != nil {
			t.Fatal(err)
		}
		plugged := time.Now()
		r.plug()
		s.waitFor("the wire to be heard", func() bool {
			if err := r.send(frame(0x200, 9999)); err != nil {
				t.Fatal(err)
			}
			heard, _ := inA.Heard()
			return heard[frame(0x200, 9999)] > 0
		})
		took = append(took, time.Since(plugged).Round(time.Millisecond))
		wire := r.listen()
		for i := range count {
			if err := r.send(frame(0x300, i)); err != nil {
				t.Fatal(err)
			}
			if err := fromA.Send(frame(0x400, i)); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(where string, l *cantest.Listener, id uint32) {
			t.Helper()
			missing := func() (wrong []string) {
				heard, _ := l.Heard()
				for i := range count {
					if n := heard[frame(id, i)]; n != 1 {
						wrong = append(wrong, fmt.Sprintf("%d: %d times", i, n))
					}
				}
				return wrong
			}
			for deadline := time.Now().Add(10 * time.Second); missing() != nil && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond) // for a second one
			if wrong := missing(); wrong != nil {
				t.Errorf("round %d: %s hears of %x %v", round, where, id, wrong)
			}
		}
		expect("a", inA, 0x300)
		expect("b", inB, 0x300)
		expect("b", inB, 0x400)
		expect("the wire", wire, 0x400)
	}
	slices.Sort(took)
	t.Logf("from the plug to the first frame in an old socket: %v, median %v", took, took[len(took)/2])

	// An earlier event may have been enough, and the last one not be over.
	s.waitFor("udev's last word on "+r.name, func() bool {
		return s.properties(r.name)["SYSTEMD_WANTS"] == "vxcan-heal@"+r.name+".service"
	})
	s.waitFor("the last repair", func() bool { return s.run("systemctl", "list-jobs", "--no-legend", "vxcan-heal@*") == "" })
	for _, l := range links(t) {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			if wants := s.properties(l.Name)["SYSTEMD_WANTS"]; wants != "" {
				t.Errorf("%s starts %s", l.Name, wants)
			}
		}
	}
	if failed := s.run("systemctl", "list-units", "--failed", "--no-legend", "vxcan-heal@*"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
}
