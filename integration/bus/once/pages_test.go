package once

import (
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestPageInside: what plugins/vxcan and conflist/controller say of programs in containers.
func TestPageInside(t *testing.T) {
	harness.FreshHost(t)
	gateway, a, b := harness.NewContainer(t, "gateway"), harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(gateway).Add(t)
	harness.On(a).Add(t)
	harness.Call{ContainerID: gateway.ID, Netns: gateway.Path, IfName: "eth1"}.With(`"name":"canbus1","hub":"vcan1","interface":"can1"`).Add(t)
	harness.On(b).With(`"name":"canbus1","hub":"vcan1"`).Add(t)
	inside := func(args ...string) (string, error) {
		return harness.Try("ip", append([]string{"netns", "exec", gateway.ID}, args...)...)
	}

	if _, err := inside("ip", "link", "set", "can0", "up", "type", "can", "bitrate", "500000"); err == nil || !strings.Contains(err.Error(), "RTNETLINK answers: Operation not supported") {
		t.Errorf("a bit rate in a container: %v", err)
	}
	if out, _ := inside("cangw", "-L"); out != "" { // whose exit status means nothing
		t.Errorf("rules of the bus in a container: %q", out)
	}
	// A container between two buses: everybody hears everything once.
	for _, rule := range []string{"-s can0 -d can1", "-s can1 -d can0"} {
		for _, fd := range []string{"", " -X"} {
			if _, err := inside(append([]string{"cangw", "-A"}, strings.Fields(rule+" -e -i"+fd)...)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	harness.ExpectExactlyOnce(t, []harness.Station{{Name: "host", Netns: nil, IfName: "vcan0"}, {Name: "host", Netns: nil, IfName: "vcan1"}, {Name: "a", Netns: a.Netns, IfName: "can0"}, {Name: "b", Netns: b.Netns, IfName: "can0"}}, 20, true)
	if _, err := inside("cangw", "-F"); err != nil {
		t.Fatal(err)
	}
	harness.ExpectExactlyOnce(t, []harness.Station{{Name: "host", Netns: nil, IfName: "vcan0"}, {Name: "a", Netns: a.Netns, IfName: "can0"}}, 5, true)

	// No error frame on a vcan, but what comes behind it.
	listener, errorFrames := cantest.Listen(t, a.Netns, "can0"), cantest.ListenErrors(t, a.Netns, "can0")
	for _, id := range []uint32{0x20000004, 0x123} {
		if err := cantest.NewSender(t, nil, "vcan0").Send(cantest.Frame{ID: id, Data: "\x00\x01\x00\x00\x00\x00\x00\x00"}); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(1, listener)
	if frames, errors := listener.Total(), errorFrames.Total(); frames != 1 || errors != 0 {
		t.Errorf("heard: %d frames and %d error frames of a program on the vcan, want 1 and 0", frames, errors)
	}
}
