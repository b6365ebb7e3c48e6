package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// OnController is the plain network with a controller as hub.
const OnController = `"hub":"slot0","physical":true`

// SetUpByUs is a network that has its controller set up.
const SetUpByUs = OnController + `,"bitrate":500000`

// LateController is the name in the files of conflist/controller.
const LateController = "can-engine"

// LateImage is the image in those files. It sleeps unless it is told to run candump.
const LateImage = "localhost/can-utils:latest"

// UpCommands are what the driver tells the adapter when its owner sets it up (SetUpController), once.
var UpCommands = []string{"C", "S6", "O"}

// SetUpController does what the README tells the owner of a controller to do, and makes its queue longer unless
// queue is 0.
func SetUpController(t testing.TB, c *cantest.Controller, queue int) {
	t.Helper()
	args := []string{"link", "set", c.Name, "up"}
	if queue != 0 {
		args = append(args, "txqueuelen", strconv.Itoa(queue))
	}
	args = append(args, "type", "can", "bitrate", "500000")
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err == nil {
			break
		}
		// slcan waits a second for the wire, which is a goroutine here, and may be late where other machines run beside this.
		if !strings.Contains(string(out), "Connection timed out") || time.Now().After(deadline) {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	WaitForState(t, c.Name, `"operstate":"UP"`) // which the kernel sets up to a second later, though frames pass at once
}

// ControllerState is all that `ip` shows of a device, without counters.
func ControllerState(t testing.TB, name string) string {
	t.Helper()
	return Command(t, "ip", "-details", "-json", "link", "show", "dev", name)
}

// onWire is the controller's other side as a party.
func onWire(c *cantest.Controller) Party { return Party{"wire", c.Listen(), c.Send, false} }

// ExpectOnWire is ExpectExactlyOnce for these stations and the wire of a controller, and fails the test also unless the
// frames of each reach the wire in order. Its queue must have room for all of them.
func ExpectOnWire(t *testing.T, c *cantest.Controller, stations []Station, count int) {
	t.Helper()
	wire := onWire(c)
	parties := []Party{wire}
	for _, s := range stations {
		parties = append(parties, s.Party(t))
	}
	Exchange(t, parties, count, false)
	sent := wire.Listener.InOrder()
	for i, p := range parties[1:] {
		want := Frames(i+1, count, false)
		got := slices.DeleteFunc(slices.Clone(sent), func(f cantest.Frame) bool { return !slices.Contains(want, f) })
		if !slices.Equal(got, want) {
			t.Errorf("the frames of %s are on the wire in another order", p.Name)
		}
	}
}

// ExpectErrorFrames fails the test unless what a controller reports in error frames reaches the host and containers, each
// once. The last one cannot forge an error frame, and none is sent to the wire.
func ExpectErrorFrames(t *testing.T, c *cantest.Controller, stations ...Station) {
	t.Helper()
	var listeners []*cantest.Listener
	for _, s := range stations {
		l := cantest.ListenErrors(t, s.Netns, s.IfName)
		defer l.Close()
		listeners = append(listeners, l)
	}
	last := stations[len(stations)-1]
	deaf, wire, sender := cantest.Listen(t, last.Netns, last.IfName), c.Listen(), cantest.NewSender(t, last.Netns, last.IfName)
	defer deaf.Close()
	defer wire.Close()
	defer sender.Close()
	if err := sender.Send(cantest.Frame{ID: unix.CAN_ERR_FLAG | 0x40, Data: "\x00\x00\x00\x00\x00\x00\x00\x00"}); err != nil {
		t.Fatal(err)
	}
	said := []string{"e1a\r", "sw096000\r", "sp128000\r"} // an ACK error, error-warning, error-passive
	for _, line := range said {
		if err := c.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(len(said)*len(listeners), listeners...)
	first := listeners[0].InOrder()
	if len(first) < len(said) {
		t.Errorf("%s hears %d error frames, want %d: %v", stations[0].Name, len(first), len(said), first)
	}
	for i, l := range listeners {
		got, _ := l.Heard()
		if len(got) != len(first) {
			t.Errorf("%s hears the error frames %v, %s %v", stations[i].Name, got, stations[0].Name, first)
		}
		for _, f := range first {
			if got[f] != 1 {
				t.Errorf("%s hears the error frame %v %d times, want 1", stations[i].Name, f, got[f])
			}
		}
	}
	if got := len(deaf.InOrder()) + len(wire.InOrder()); got != 0 {
		t.Errorf("%d frames reach the wire or a program that did not ask for error frames", got)
	}
}

// BusOff makes the controller bus-off and waits until the kernel sends it no more frames, which takes up to a second.
func BusOff(t *testing.T, c *cantest.Controller) {
	t.Helper()
	if err := c.WriteRaw("sb256000\r"); err != nil {
		t.Fatal(err)
	}
	WaitForState(t, c.Name, `"state":"BUS-OFF"`, `"operstate":"DOWN"`)
}

// WaitForState waits until `ip` shows all of these words of a device.
func WaitForState(t testing.TB, name string, words ...string) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		state = ControllerState(t, name)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(state, w) }) {
			return
		}
	}
	t.Fatalf("no %v after a minute: %s", words, state)
}

// Numbered are count different frames.
func Numbered(count int) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		all = append(all, cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)})
	}
	return all
}

// SendAll sends frames from a container as fast as it can. Every write must succeed.
func SendAll(t testing.TB, c *Container, all []cantest.Frame) {
	t.Helper()
	sender := cantest.NewSender(t, c.Netns, "can0")
	for _, f := range all {
		if err := sender.Send(f); err != nil {
			t.Fatal(err)
		}
	}
}

// ToHub are the counters of the rule for classic frames from the backplane to the hub, by `cangw -L`.
func ToHub(t testing.TB, hub string) (handled, dropped int) {
	t.Helper()
	out, _ := Try("cangw", "-L") // its exit status means nothing
	rule := regexp.MustCompile(fmt.Sprintf(`(?m)^cangw -A -s %s-rx -d %s .*# (\d+) handled (\d+) dropped`, hub, hub))
	for _, found := range rule.FindAllStringSubmatch(out, -1) {
		if !strings.Contains(found[0], " -X ") {
			handled, _ = strconv.Atoi(found[1])
			dropped, _ = strconv.Atoi(found[2])
			return handled, dropped
		}
	}
	t.Fatalf("no rule to %s:\n%s", hub, out)
	return 0, 0
}

// wireRate is how many classic frames of 8 bytes a wire takes in a second at 500 kbit/s.
const wireRate = 4000

// Bursts are how many frames a container sends in one go, by the rate of the wire. When the wire takes none of them, as that
// of a machine that is slow at the moment, there is room for a few frames less than the queue's length: of 1000, 2 to 4 were
// dropped by pfifo_fast. The likely cause, not proven, is that it frees the places of frames that went out in batches
// (linux/ptr_ring.h, __ptr_ring_consume).
var Bursts = map[int]int{wireRate: 984, cantest.Stopped: 984}

// SJA1000 finds the two controllers of bin/vm -qemu, which are on one wire, and leaves them down with other settings than
// ours.
func SJA1000(t *testing.T) (hub, wire string) {
	t.Helper()
	cards, _ := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	found := 0
	for _, file := range cards {
		if text, _ := os.ReadFile(file); strings.TrimSpace(string(text)) == "0x10e8" {
			found++
		}
	}
	if found < 2 {
		t.Skip("needs two Kvaser PCI cards (bin/vm -qemu)")
	}
	Command(t, "modprobe", "kvaser_pci")
	var names []string
	for deadline := time.Now().Add(20 * time.Second); len(names) < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("controllers %v", names)
		}
		names = nil
		for _, l := range Links(t) {
			if l.Kind == "can" {
				names = append(names, l.Name)
			}
		}
	}
	down := func() {
		for _, name := range names {
			_, _ = Try("ip", "link", "set", name, "down")
		}
	}
	down()
	t.Cleanup(down)
	return names[0], names[1]
}
