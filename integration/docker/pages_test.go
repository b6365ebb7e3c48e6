package docker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestPageFaults: the lines of conflist/policy that disturb a container while it runs.
func TestPageFaults(t *testing.T) {
	d := harness.StartDocker(t)
	y := harness.NewTypist(t)
	d.Network("canbus0", "0")
	t.Cleanup(func() { _, _ = d.Try("network", "rm", "canbus0") })
	c := d.Run("engine", "--network", "canbus0")
	t.Cleanup(func() { _, _ = d.Try("rm", "-f", "engine") })
	lines := harness.PageLines(t, "../../conflist/policy/README.md", "Faults on purpose")
	at := 1
	next := func(words string) {
		t.Helper()
		if !strings.Contains(lines[at], words) {
			t.Fatalf("line %d of the page is %q, want %s", at, lines[at], words)
		}
		y.Must(lines[0] + "\n" + lines[at])
		at++
	}
	fromHost := cantest.NewSender(t, nil, "vcan0")
	// passed sends frames both ways and returns how many arrive; ID 123 is one of two.
	passed := func(from *cantest.Sender) (sent, heard int) {
		t.Helper()
		const count = 200
		atHost, inside := cantest.Listen(t, nil, "vcan0"), cantest.Listen(t, c.Netns, "can0")
		for n := range count {
			_ = from.Send(cantest.Frame{ID: uint32(0x123 + n%2), Data: fmt.Sprint(n)}) // while the interface is down it fails
			if err := fromHost.Send(cantest.Frame{ID: 0x200, Data: fmt.Sprint(n)}); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(2*count, atHost, inside)
		frames, _ := atHost.Heard()
		for f := range frames {
			if f.ID != 0x200 {
				sent++
			}
		}
		frames, _ = inside.Heard()
		for f := range frames {
			if f.ID == 0x200 {
				heard++
			}
		}
		atHost.Close()
		inside.Close()
		return sent, heard
	}
	expect := func(when string, from *cantest.Sender, ok func(sent, heard int) bool) {
		t.Helper()
		if sent, heard := passed(from); !ok(sent, heard) {
			t.Errorf("%s: of 200 frames each, %d are heard by the host and %d by the container", when, sent, heard)
		} else {
			t.Logf("%s: %d and %d", when, sent, heard)
		}
	}
	all := func(sent, heard int) bool { return sent == 200 && heard == 200 }
	old := cantest.NewSender(t, c.Netns, "can0")
	expect("before", old, all)
	next("netem loss 50%")
	expect("netem", old, func(sent, heard int) bool { return sent > 50 && sent < 150 && heard == 200 })
	next("qdisc del")
	next("can0 down")
	if err := old.Send(cantest.Frame{ID: 0x123}); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("a write while the interface is down: %v", err)
	}
	next("can0 up")
	expect("a socket from before it was down", old, all)
	next("network disconnect")
	if err := old.Send(cantest.Frame{ID: 0x123}); err == nil {
		t.Error("a write after the container has left the network succeeds")
	}
	next("attach")
	now := cantest.NewSender(t, c.Netns, "can0")
	expect("on it again", now, all)
	next("124-7FF")
	expect("without 123, by the same socket", now, func(sent, heard int) bool { return sent == 100 && heard == 200 })
	inside, atHost := cantest.ListenErrors(t, c.Netns, "can0"), cantest.ListenErrors(t, nil, "vcan0")
	next("cansend")
	d.WaitFor("an error frame in the container", func() bool { return inside.Total() > 0 })
	if atHost.Total() > 0 {
		t.Error("the error frame is on the bus")
	}
	next("detach")
	c.ExpectInterfaces()
}

// TestPageDocker: the lines of README for Docker, for an adapter, and for a second bus.
func TestPageDocker(t *testing.T) {
	d := harness.StartDocker(t)
	t.Logf("Docker %s", d.Version())
	d.Docker("load", "-i", harness.ImageArchive(t, "can-utils:latest", "candump", "cansend"))
	y := harness.NewTypist(t)
	t.Cleanup(func() {
		_, _ = d.Try("rm", "-f", "engine", "logger", "dashboard")
		_, _ = d.Try("network", "rm", "canbus0", "canbus1", "wire")
	})
	y.Run(harness.PageLines(t, "../../README.md", "Docker"), harness.FromBoth...)

	const page = "../../plugins/docker/README.md"
	for _, line := range harness.PageLines(t, page, "Names, and two buses") {
		y.Must(line)
	}
	d.Container("engine").ExpectInterfaces("bus0", "can0")
	for _, mode := range []string{"none", "host"} {
		d.Docker("run", "-d", "--name", "other", "--network", mode, "can-utils")
		if _, err := d.Try("network", "connect", "canbus0", "other"); err == nil {
			t.Errorf("a container with --network %s can be connected: %s says that it cannot", mode, page)
		}
		d.Docker("rm", "-f", "other")
	}

	controller := cantest.NewController(t, "can0")
	lines := harness.PageLines(t, "../../README.md", "A real adapter")
	if out := y.Must(lines[0]); !strings.HasPrefix(out, "can0 ") {
		t.Errorf("%s: %q", lines[0], out)
	}
	for _, line := range lines[1:4] {
		y.Must(line)
	}
	d.WaitFor("a frame from the wire", func() bool {
		if err := controller.Send(cantest.Frame{ID: 0x123, Data: "\x11\x22"}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(y.Must(lines[4]), harness.FromBoth[0])
	})
	if out := y.Must(lines[5]); !strings.Contains(out, "can0") || !strings.Contains(out, "logger") || !strings.Contains(out, "500 kbit/s") {
		t.Errorf("%s:\n%s", lines[5], out)
	}
}
